//! libioasid.so.1: the header that is shipped is the code's, a C program builds and runs with it, nothing else is in it.

#![allow(clippy::unwrap_used)]

mod common;

use common::daemon::{IOASIDCTL, scratch_directory};
use common::{Cgroups, Daemon, shown};
use ioasid::model::Refusal;
use ioasid::proto::{Header, Kind, OpenSession, decode_body, encode, parse_frame};
use ioasid::sys::seqpacket::{self, Received};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const SOURCE: &str = env!("CARGO_MANIFEST_DIR");
const HEADER: &str = "packaging/include/ioasid.h";

fn in_source(path: &str) -> PathBuf {
    Path::new(SOURCE).join(path)
}

fn run(command: &mut Command) -> String {
    let output = command.current_dir(SOURCE).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}\n{complained}", output.status);
    said
}

/// The library and the C program, built once.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("library");
        run(Command::new("packaging/build-library").arg(&directory));
        for source in
            ["examples/c/tour.c", "tests/library/version.c", "tests/library/threads.c", "tests/library/forks.c"]
        {
            compile(source, &[], &directory.join(Path::new(source).file_stem().unwrap()), &directory);
        }
        compile("tests/library/threads.c", &["-fsanitize=thread"], &directory.join("threads-sanitized"), &directory);
        directory
    })
}

fn compile(source: &str, flags: &[&str], program: &Path, library: &Path) {
    run(Command::new("gcc")
        .args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-pthread"])
        .args(flags)
        .args(["-I", "packaging/include", source, "-o"])
        .args([program, Path::new("-L"), library, Path::new("-lioasid")]));
}

/// A program of [`built`] with a service of its own, which is as before when the program has ended.
fn run_with_service(program: &str, arguments: &[&str]) {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups));
    let before = daemon.snapshot();
    let suppressions = in_source("tests/library/tsan.suppressions");
    let said = run(Command::new(built().join(program))
        .arg(daemon.socket())
        .args(arguments)
        .env("LD_LIBRARY_PATH", built())
        .env("TSAN_OPTIONS", format!("suppressions={}", suppressions.display())));
    assert!(said.ends_with("all is well\n"), "{said}");
    daemon.settles_to(&before);
    daemon.finish();
}

fn policy(cgroups: &Cgroups) -> String {
    format!(
        r#"
        version = 1
        [space]
        bits = 14
        quarantine = "0s"
        [lease]
        batch = 8
        [[rule]]
        name = "tests"
        cgroup = "/**"
        users = ["*"]
        action = "allow"
        quota = {{ default = 16, max = 64 }}
        range = "1024-16383"
        on_behalf_of = ["{}/**"]
        "#,
        cgroups.path("")
    )
}

/// Header text as the source has it.
fn generate() -> String {
    let config = cbindgen::Config::from_file(in_source("packaging/cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in ["settings", "answer", "set", "ids", "map"] {
        builder = builder.with_src(in_source(&format!("src/capi/{file}.rs")));
    }
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn the_header_is_that_of_the_source() {
    let generated = generate();
    if std::env::var_os("IOASID_WRITE_HEADER").is_some() {
        fs::write(in_source(HEADER), &generated).unwrap();
    }
    let shipped = fs::read_to_string(in_source(HEADER)).unwrap();
    assert!(
        shipped == generated,
        "{HEADER} is out of date: IOASID_WRITE_HEADER=1 cargo test --test library the_header"
    );
}

#[test]
fn the_header_reads_as_c_and_as_cpp() {
    for (compiler, standard) in [("gcc", "c99"), ("gcc", "c23"), ("g++", "c++17")] {
        let standard = if standard == "c23" { "c2x" } else { standard };
        let language = if compiler == "g++" { "c++" } else { "c" };
        run(Command::new(compiler)
            .args([&format!("-std={standard}"), "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
            .args(["-fsyntax-only", "-x", language, HEADER]));
    }
}

#[test]
fn what_is_exported_is_what_the_header_declares() {
    let library = built().join("libioasid.so.1");
    let symbols = run(Command::new("nm").args(["-D", "--defined-only"]).arg(&library));
    let mut exported: Vec<&str> =
        symbols.lines().filter_map(|line| line.split(" T ").nth(1)?.strip_suffix("@@IOASID_1.0")).collect();
    exported.sort_unstable();
    let header = fs::read_to_string(in_source(HEADER)).unwrap();
    let mut declared: Vec<&str> = header
        .lines()
        .filter(|line| !line.starts_with([' ', '/', '#', '\t']))
        .filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next())
        .filter(|word| word.starts_with("ioasid_"))
        .collect();
    declared.sort_unstable();
    assert_eq!(exported, declared);
    assert_eq!(symbols.lines().filter(|line| !line.contains(" A IOASID_1.0")).count(), exported.len(), "{symbols}");
    let dynamic = run(Command::new("readelf").arg("-d").arg(&library));
    assert!(dynamic.contains("Library soname: [libioasid.so.1]"), "{dynamic}");
    let needed: Vec<&str> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(needed.iter().all(|line| ["libc.so.6", "libgcc_s.so.1", "ld-linux"].iter().any(|lib| line.contains(lib))));
}

#[test]
fn neither_a_runtime_nor_a_bus_nor_a_command_line_is_inside() {
    let tree = run(Command::new(env!("CARGO")).args([
        "tree",
        "--offline",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--no-default-features",
        "--features",
        "capi",
    ]));
    for heavy in ["tokio", "zbus", "clap", "redb", "jemalloc", "mimalloc"] {
        assert!(!tree.lines().any(|line| line.starts_with(heavy)), "{heavy} is in it:\n{tree}");
    }
}

#[test]
fn pkg_config_leads_to_it() {
    let flags = run(Command::new("pkg-config").args(["--cflags", "--libs", "ioasid"]).env("PKG_CONFIG_PATH", built()));
    assert!(flags.contains("-lioasid"), "{flags}");
    let version = run(Command::new("pkg-config").args(["--modversion", "ioasid"]).env("PKG_CONFIG_PATH", built()));
    assert_eq!(version.trim(), env!("CARGO_PKG_VERSION"));
}

/// The example of libioasid(3), built and run with the two commands that the page shows.
#[test]
fn the_program_of_the_manual_page_allocates() {
    let page = "packaging/man/libioasid.3";
    let program = shown::displays(page).into_iter().find(|display| display.starts_with("#include")).unwrap();
    let [commands] = &shown::blocks(page)[..] else { panic!("{page} shows one way to build and run it") };
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups));
    let before = daemon.snapshot();
    let directory = scratch_directory();
    fs::write(directory.path().join("example.c"), program).unwrap();
    let script: Vec<&str> = commands.commands.iter().map(|shown| shown.typed.as_str()).collect();
    let said = run(Command::new("sh")
        .args(["-euxc", r#"cd "$0" && eval "$1""#])
        .arg(directory.path())
        .arg(script.join("\n"))
        .env("PATH", format!("{}:/usr/bin:/bin", Path::new(IOASIDCTL).parent().unwrap().display()))
        .env("IOASID_SOCKET", daemon.socket())
        // What an installed library needs none of.
        .env("PKG_CONFIG_PATH", built())
        .env("C_INCLUDE_PATH", in_source("packaging/include"))
        .env("LIBRARY_PATH", built())
        .env("LD_LIBRARY_PATH", built()));
    assert_eq!(said, "1024\n");
    daemon.settles_to(&before);
    daemon.finish();
}

#[test]
fn a_c_program_takes_a_set_of_its_own_and_tours_it() {
    run_with_service("tour", &[]);
}

#[test]
fn threads_share_one_handle_and_no_id_has_two_owners() {
    run_with_service("threads", &["24", "60"]);
}

#[test]
fn what_the_threads_check_is_no_race_of_theirs() {
    run_with_service("threads-sanitized", &["8", "40"]);
}

#[test]
fn a_forked_child_goes_on_with_handle_and_mapping() {
    run_with_service("forks", &[]);
}

/// A session's key is what tells it from others of its set after a restart: two that are one could take each other's
/// answers. Children of one process draw theirs from copies of one memory, and may have one pid.
#[test]
fn forked_children_draw_keys_of_their_own() {
    let (service, set) = seqpacket::pair().unwrap();
    let mut program = Command::new(built().join("forks"));
    program.arg("namespaces").env("LD_LIBRARY_PATH", built()).stdin(set).stdout(Stdio::piped());
    let child = program.spawn().unwrap();
    // It has the other end.
    drop(program);
    let deadline = Some(Instant::now() + Duration::from_secs(20));
    let asked = || {
        let mut buffer = [0; 4096];
        let received = seqpacket::receive(service.as_fd(), &mut buffer, deadline).unwrap();
        let Received::Message { len, fds } = received else { panic!("{received:?}") };
        let (header, body) = parse_frame(&buffer[..len]).unwrap();
        (header, decode_body::<OpenSession>(body).unwrap().key, fds)
    };
    let (header, parents, session) = asked();
    let refusal = encode(Header { kind: Kind::Refusal, ..header }, &Refusal::not_found("this set"));
    seqpacket::send(session[0].as_fd(), &refusal, &[], deadline).unwrap();
    let (one, other) = (asked(), asked());
    assert!(parents != one.1 && one.1 != other.1, "{one:?} {other:?}");
    drop((service, one, other));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.ends_with(b"all is well\n"), "{output:?}");
}

/// What the header, the library and pkg-config say is one version.
#[test]
fn a_c_program_sees_one_version() {
    let said = run(Command::new(built().join("version")).env("LD_LIBRARY_PATH", built()));
    let packaged = run(Command::new("pkg-config").args(["--modversion", "ioasid"]).env("PKG_CONFIG_PATH", built()));
    assert_eq!(said, packaged);
    assert_eq!(said.trim(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn under_valgrind_it_loses_nothing_and_reads_nothing_foreign() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups));
    let before = daemon.snapshot();
    let (set, _) = daemon.connect().create_set_of(16).unwrap();
    let said = run(Command::new("sh")
        // valgrind keeps the descriptors that it was started with.
        .args(["-c", r#"exec 5<&0 </dev/null; exec "$@""#, "sh", "valgrind", "--quiet", "--error-exitcode=99"])
        .args(["--leak-check=full", "--show-leak-kinds=all", "--errors-for-leak-kinds=definite,indirect,possible"])
        .arg("--child-silent-after-fork=yes")
        .arg(built().join("tour"))
        .env("LD_LIBRARY_PATH", built())
        .env("IOASID_SET_FD", "5")
        .stdin(set.as_fd().try_clone_to_owned().unwrap()));
    assert!(said.ends_with("all is well\n"), "{said}");
    drop(set);
    daemon.settles_to(&before);
    daemon.finish();
}
