//! ioasidd: the service.

fn main() -> std::process::ExitCode {
    ioasid::daemon::main()
}
