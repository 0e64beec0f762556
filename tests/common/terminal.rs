//! A real terminal with a program in it, for what a person looks at and types.

use super::eventually;
use std::process::{Command, Stdio};

/// A terminal of tmux.
pub struct Terminal {
    name: String,
}

impl Terminal {
    /// Runs a program in a terminal of this many columns.
    pub fn start(name: &str, columns: u16, program: &[&str]) -> Self {
        let terminal = Self { name: format!("ioasid-{name}-{}", std::process::id()) };
        let columns = columns.to_string();
        let new = ["new-session", "-d", "-x", &columns, "-y", "24", "--"];
        terminal.tmux(&[&new[..], program].concat());
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.args(["-L", &self.name, "-f", "/dev/null"]).args(arguments).env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        let output = tmux.stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Types keys, as tmux names them.
    pub fn type_keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Waits until the screen is as it shall be.
    pub fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut screen = String::new();
        let shown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || {
                screen = self.tmux(&["capture-pane", "-p"]);
                wanted(&screen).then_some(())
            });
        }));
        assert!(shown.is_ok(), "{what} is not on the screen:\n{screen}");
        screen
    }

    /// Whether its program has ended.
    pub fn is_over(&self) -> bool {
        self.tmux(&["list-sessions"]).is_empty()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}
