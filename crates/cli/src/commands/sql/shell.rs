//! `cirrus sql shell`: statements and commands as they are typed, each statement a transaction of its own.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use cirrus_client::v1::{SqlDatabase, SqlExportRequest, SqlQueryStreamRequest};
use cirrus_client::{Client, ClientError, Reason};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::{dump, input, results, statement};
use crate::arguments::{Format, Global};
use crate::commands::Outcome;
use crate::failure::CommandError;
use crate::output;

const HELP: &str = "\
Statements end with a semicolon and may have several lines. Each is a transaction of its own.
.tables   the tables and views
.schema   the statements that create everything
.dump     the database as SQL text
.help     this text
.quit     leave, as Ctrl-D does";

pub(super) async fn run(global: &Global, database: SqlDatabase) -> Outcome {
    let client = global.client().await?;
    let name = format!("{}/{}", output::cell(&database.user), database.dbname);
    let mut shell = Shell { client, database, format: global.output, typed: String::new(), failed: false };
    if !io::stdin().is_terminal() {
        for line in io::stdin().lock().lines() {
            if shell.take(&line?).await? == Next::Quit {
                return Ok(shell.exit_code());
            }
        }
        shell.finish().await?;
        return Ok(shell.exit_code());
    }
    let broken = |error: ReadlineError| CommandError::local(format!("the terminal: {error}"));
    let mut editor = DefaultEditor::new().map_err(broken)?;
    let history = history_file();
    if let Some(history) = &history {
        // Without a file there is no history yet.
        let _ = editor.load_history(history);
    }
    output::explain(format!("{name}: .help says what there is"));
    loop {
        let prompt = if shell.typed.is_empty() { format!("{name}> ") } else { "   ...> ".to_owned() };
        match editor.readline(&prompt) {
            Ok(line) => {
                if !line.trim().is_empty() {
                    editor.add_history_entry(&line).map_err(broken)?;
                }
                if shell.take(&line).await? == Next::Quit {
                    break;
                }
            }
            // Ctrl-C forgets what was typed.
            Err(ReadlineError::Interrupted) => shell.typed.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(broken(error)),
        }
    }
    if let Some(history) = &history
        && let Err(error) = editor.save_history(history)
    {
        output::explain(format!("the history is not kept: {}: {error}", history.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn history_file() -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".cirrus_sql_history"))
}

struct Shell {
    client: Client,
    database: SqlDatabase,
    format: Format,
    /// Lines of a statement that has not ended.
    typed: String,
    /// Something that was read from a file or a pipe failed.
    failed: bool,
}

#[derive(PartialEq)]
enum Next {
    Line,
    Quit,
}

impl Shell {
    fn exit_code(&self) -> ExitCode {
        if self.failed { ExitCode::from(2) } else { ExitCode::SUCCESS }
    }

    /// Takes a line; runs what it completes. What the cluster refuses is told, and the shell goes on.
    async fn take(&mut self, line: &str) -> Result<Next, CommandError> {
        if self.typed.is_empty() && line.trim_start().starts_with('.') {
            return self.command(line.trim()).await;
        }
        self.typed.push_str(line);
        self.typed.push('\n');
        let typed = std::mem::take(&mut self.typed);
        let (statements, rest) = input::split(&typed);
        for sql in statements {
            self.execute(sql).await?;
        }
        if !input::is_blank(rest) {
            self.typed = rest.trim_start().to_owned();
        }
        Ok(Next::Line)
    }

    /// The last statement of a file needs no semicolon.
    async fn finish(&mut self) -> Result<(), CommandError> {
        let typed = std::mem::take(&mut self.typed);
        if !input::is_blank(&typed) {
            self.execute(typed.trim()).await?;
        }
        Ok(())
    }

    async fn execute(&mut self, sql: &str) -> Result<(), CommandError> {
        if input::may_only_read(sql) {
            let request = SqlQueryStreamRequest {
                database: Some(self.database.clone()),
                statements: vec![statement(sql.to_owned())],
                ..Default::default()
            };
            let printed = results::print_parts(self.format, self.client.stream_sql(request)).await?;
            match printed {
                Ok(()) => return Ok(()),
                // It writes after all, or there is no database yet, which a transaction takes for an empty one. Neither printed
                // anything.
                Err(error) if matches!(error.reason(), Some(Reason::SqlReadOnly | Reason::DatabaseNotFound)) => {}
                Err(error) => {
                    self.tell(error);
                    return Ok(());
                }
            }
        }
        match self.client.execute_sql(self.database.clone(), vec![statement(sql.to_owned())]).await {
            Ok(answer) => results::print(self.format, &answer.results)?,
            Err(error) => self.tell(error),
        }
        Ok(())
    }

    fn tell(&mut self, error: ClientError) {
        self.failed = true;
        CommandError::from(error).report(self.format);
    }

    async fn command(&mut self, command: &str) -> Result<Next, CommandError> {
        match command {
            ".quit" | ".exit" => return Ok(Next::Quit),
            ".help" => output::line(HELP)?,
            ".tables" => {
                let tables = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') \
                              AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
                self.execute(tables).await?;
            }
            ".schema" => match self.client.describe_database(self.database.clone()).await {
                Ok(answer) => {
                    for one in answer.objects.iter().filter(|one| !one.sql.is_empty()) {
                        output::line(format!("{};", one.sql))?;
                    }
                }
                Err(error) if error.reason() == Some(Reason::DatabaseNotFound) => {}
                Err(error) => self.tell(error),
            },
            ".dump" => {
                let request = SqlExportRequest { database: Some(self.database.clone()), ..Default::default() };
                match self.client.export_database(request).await {
                    Ok(file) => self.dump(&file)?,
                    Err(error) => self.tell(error),
                }
            }
            other => {
                self.failed = true;
                output::explain(format!("there is no command {other}; .help lists them"));
            }
        }
        Ok(Next::Line)
    }

    fn dump(&mut self, file: &Bytes) -> Result<(), CommandError> {
        let mut written = Ok(());
        let dumped = dump::dump(file, &mut |line| {
            if written.is_ok() {
                written = output::line(line);
            }
        });
        written?;
        dumped.map_err(|error| CommandError::local(format!("reading the exported database: {error}")))
    }
}
