//! Completions: each shell reads its script, and completes with it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;
use tempfile::TempDir;

const IOASIDCTL: &str = env!("CARGO_BIN_EXE_ioasidctl");

/// The shell's script in a file.
fn script(shell: &str) -> (TempDir, String) {
    let output = Command::new(IOASIDCTL).args(["completions", shell]).output().unwrap();
    assert!(output.status.success());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("_ioasidctl");
    fs::write(&file, output.stdout).unwrap();
    let path = file.to_str().unwrap().to_owned();
    (directory, path)
}

/// What the shell says when it runs this, `$0` being the script.
fn run(shell: &str, arguments: &[&str]) -> String {
    let output = Command::new(shell).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes_verbs_and_flags() {
    let (_directory, script) = script("bash");
    let ask = r#". "$0"; COMP_WORDS=(ioasidctl "$@"); COMP_CWORD=$#; _ioasidctl ioasidctl "${@: -1}" x; echo "${COMPREPLY[*]}""#;
    assert_eq!(run("bash", &["-c", ask, &script, "al"]), "alloc alias\n");
    assert_eq!(run("bash", &["-c", ask, &script, "exec", "--quo"]), "--quota\n");
    assert_eq!(run("bash", &["-c", ask, &script, "policy", "ex"]), "explain\n");
}

#[test]
fn zsh_reads_its_script_and_knows_the_verbs() {
    let (directory, script) = script("zsh");
    run("zsh", &["-n", &script]);
    let ask = r#"fpath=("$0:h" $fpath); autoload -Uz compinit _ioasidctl; compinit -u -D; print $_comps[ioasidctl]"#;
    assert_eq!(run("zsh", &["-f", "-c", ask, &script]), "_ioasidctl\n");
    assert!(fs::read_to_string(directory.path().join("_ioasidctl")).unwrap().contains("'reset-peak:"));
}

#[test]
fn fish_completes_verbs_and_flags() {
    let (_directory, script) = script("fish");
    let home = tempfile::tempdir().unwrap();
    let ask = |line: &str| {
        let output = Command::new("fish")
            .args(["--no-config", "-c", &format!("source {script}; complete -C '{line}'")])
            .env("HOME", home.path())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(ask("ioasidctl al").contains("alloc\t"), "{}", ask("ioasidctl al"));
    assert!(ask("ioasidctl exec --quo").contains("--quota\t"));
}
