//! `completions`: what shells complete words of this command line with.

use super::arguments::Arguments;
use super::outcome::{Failed, Outcome};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Prints the shell's script.
pub(super) fn completions(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ioasidctl", &mut script);
    match io::stdout().write_all(&script) {
        // Who reads stopped reading.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failed::fault("print", &error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}
