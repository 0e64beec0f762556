//! ioasidctl: the command.

fn main() -> std::process::ExitCode {
    ioasid::cli::main()
}
