//! One module for each command.

mod call;
mod delete;
mod deploy;
mod dev;
mod get;
mod increment;
mod limits;
mod lint;
mod logs;
mod new;
mod procedures;
mod put;
mod running;
mod scan;
mod schedules;
pub(crate) mod serve;
mod signals;
mod sql;
mod status;
mod test;
mod verify;
mod versions;

use std::process::ExitCode;

use crate::arguments::{Cli, ClusterCommand, Command, Format};
use crate::failure::CommandError;

/// What a command ends with: its exit code, or what to report.
pub(crate) type Outcome = Result<ExitCode, CommandError>;

/// Runs the command of a command line.
pub(crate) async fn run(cli: Cli) -> Outcome {
    let Cli { global, command } = cli;
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::Dev(args) => dev::run(args, global.output).await,
        Command::Cluster(ClusterCommand::Verify(args)) => verify::run(&global, args).await,
        Command::Status => status::run(&global).await,
        Command::Get(args) => get::run(&global, args).await,
        Command::Put(args) => put::run(&global, args).await,
        Command::Delete(args) => delete::run(&global, args).await,
        Command::Incr(args) => increment::run(&global, args).await,
        Command::Scan(args) => scan::run(&global, args).await,
        Command::Proc(command) => procedures::run(&global, command).await,
        Command::Sql(command) => sql::run(&global, command).await,
        Command::Bench(args) => {
            cirrus_bench::run(args, global.endpoints, global.output == Format::Json).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
