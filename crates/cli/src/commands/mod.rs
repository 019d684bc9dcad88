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
mod serve;
mod signals;
mod sql;
mod status;
mod test;
mod verify;
mod versions;

use std::process::ExitCode;

use tokio::runtime::Builder;

use crate::arguments::{Cli, ClusterCommand, Command, Format};
use crate::failure::CommandError;

/// What a command ends with: its exit code, or what to report.
pub(crate) type Outcome = Result<ExitCode, CommandError>;

/// Runs the command of a command line, on a runtime as it needs one.
pub(crate) fn run(cli: Cli) -> Outcome {
    let Cli { global, command } = cli;
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Dev(args) => on_one_thread(dev::run(args, global.output)),
        Command::Cluster(ClusterCommand::Verify(args)) => on_one_thread(verify::run(&global, args)),
        Command::Status => on_one_thread(status::run(&global)),
        Command::Get(args) => on_one_thread(get::run(&global, args)),
        Command::Put(args) => on_one_thread(put::run(&global, args)),
        Command::Delete(args) => on_one_thread(delete::run(&global, args)),
        Command::Incr(args) => on_one_thread(increment::run(&global, args)),
        Command::Scan(args) => on_one_thread(scan::run(&global, args)),
        Command::Proc(command) => on_one_thread(procedures::run(&global, command)),
        Command::Sql(command) => on_one_thread(sql::run(&global, command)),
        Command::Bench(args) => {
            let runtime = Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(cirrus_bench::run(args, global.endpoints, global.output == Format::Json))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Asking a node needs one thread only, and starts sooner so.
fn on_one_thread(command: impl Future<Output = Outcome>) -> Outcome {
    Builder::new_current_thread().enable_all().build()?.block_on(command)
}
