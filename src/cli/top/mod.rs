//! `top`: the service live, by cgroup and by set.
//!
//! A sample a second ([`sample`]), keys between them ([`view`]), the screen after each ([`draw`]).

mod draw;
mod sample;
mod view;

use super::context::Context;
use super::outcome::{Failed, Outcome};
use crate::client::Service;
use crate::model::Refusal;
use crate::proto::RevokeSet;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use sample::{History, Sample};
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use view::{View, Wish};

/// From one sample to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// How long the service may stay away before the screen says so.
const PATIENCE: Duration = Duration::from_millis(200);

/// Shows the service until `q`; with `--json` one sample of it.
pub(super) fn top(context: &Context) -> Outcome {
    let mut service = context.service()?.with_patience(PATIENCE);
    if context.json() {
        return context.print(&Sample::take(&mut service)?, |_| String::new());
    }
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        let why = "it takes a terminal; --json gives one sample".to_owned();
        return Err(Refusal::Unsupported { what: "top".to_owned(), why }.into());
    }
    let mut terminal = ratatui::try_init().map_err(|error| Failed::fault("take the terminal over", &error))?;
    let shown = show(&mut terminal, &mut service);
    ratatui::restore();
    shown.map_err(|error| Failed::fault("show on the terminal", &error))?;
    Ok(ExitCode::SUCCESS)
}

fn show(terminal: &mut DefaultTerminal, service: &mut Service) -> io::Result<()> {
    let (mut history, mut view) = (History::default(), View::default());
    let mut due = Instant::now();
    loop {
        if Instant::now() >= due {
            due = Instant::now() + PERIOD;
            match Sample::take(service) {
                Ok(sample) => {
                    view.trouble = None;
                    history.add(sample, Instant::now());
                }
                Err(error) => view.trouble = Some(error.to_string()),
            }
            view.settle(&history);
        }
        terminal.draw(|frame| draw::screen(frame, &history, &view))?;
        if !event::poll(due.saturating_duration_since(Instant::now()))? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match view.press(key, &history) {
            Some(Wish::Quit) => return Ok(()),
            Some(Wish::Revoke(set)) => {
                let revoked = service.call(&RevokeSet { set, reason: "revoked in ioasidctl top".to_owned() }, &[]);
                view.say(match revoked {
                    Ok(_) => format!("set {set} is revoked"),
                    Err(error) => error.to_string(),
                });
                due = Instant::now();
            }
            None => {}
        }
    }
}
