//! Running CMD.

use super::arguments::CommandArgument;
use super::outcome::{Failed, Outcome};
use crate::client::{FD_NAME, FD_VARIABLE, Set};
use crate::sys::inherited;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};

/// The descriptor that CMD gets.
const SET_FD: i32 = 3;

/// The descriptor of the iommufd, where CMD gets one.
const IOMMUFD: i32 = 4;
/// What it is called in `LISTEN_FDNAMES`.
const IOMMUFD_NAME: &str = "iommufd";
/// The environment variable with its number.
const IOMMUFD_VARIABLE: &str = "IOASID_IOMMUFD";

/// Replaces this process with CMD, which gets the set FD, and the iommufd after it, under the LISTEN_FDS protocol. Comes
/// back only where that fails.
pub(super) fn replace(set: &Set, iommufd: Option<BorrowedFd<'_>>, command: &CommandArgument) -> Outcome {
    let mut program = program(command)?;
    program
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", std::process::id().to_string())
        // Of whoever started this process: with it, newer readers of the protocol look at no other.
        .env_remove("LISTEN_PIDFDID")
        .env("LISTEN_FDNAMES", FD_NAME)
        .env(FD_VARIABLE, SET_FD.to_string());
    let Some(iommufd) = iommufd else {
        program.env_remove(IOMMUFD_VARIABLE);
        inherited::leave_as(set.as_fd(), SET_FD).map_err(|error| Failed::fault("pass the set FD on", &error))?;
        let error = program.exec();
        return Err(not_run(&program, &error));
    };
    program
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", format!("{FD_NAME}:{IOMMUFD_NAME}"))
        .env(IOMMUFD_VARIABLE, IOMMUFD.to_string());
    inherited::leave_two_as([set.as_fd(), iommufd], [SET_FD, IOMMUFD])
        .map_err(|error| Failed::fault("pass the set FD and the iommufd on", &error))?;
    let error = program.exec();
    Err(not_run(&program, &error))
}

/// Runs CMD and waits for it. It inherits what this process has.
pub(super) fn run(command: &CommandArgument) -> Result<ExitStatus, Failed> {
    let mut program = program(command)?;
    program.status().map_err(|error| not_run(&program, &error))
}

/// CMD's status as a shell tells it: 128 and the signal where one ended it.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn program(command: &CommandArgument) -> Result<Command, Failed> {
    let (name, arguments) = command
        .words
        .split_first()
        .ok_or_else(|| Failed::Launch { status: 127, message: "there is no command to run".to_owned() })?;
    let mut program = Command::new(name);
    program.args(arguments);
    Ok(program)
}

fn not_run(program: &Command, error: &io::Error) -> Failed {
    let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    Failed::Launch { status, message: format!("{}: {error}", program.get_program().display()) }
}
