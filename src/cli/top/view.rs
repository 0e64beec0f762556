//! What the person sees and wants: which list, in which order, which line; keys to wishes.

use super::sample::{History, flat};
use crate::model::Limit;
use crate::proto::{CgroupInfo, SetInfo};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key asks for beyond the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// The end.
    Quit,
    /// This set revoked; the person has said yes.
    Revoke(u64),
}

/// Which list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum List {
    /// Cgroups.
    #[default]
    Cgroups,
    /// Sets.
    Sets,
}

/// By what lines are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// Ids, the most first.
    #[default]
    Current,
    /// Share of the limit, the nearest first.
    Use,
    /// Refusals, the most first.
    Hits,
    /// Name.
    Name,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Current => Self::Use,
            Self::Use => Self::Hits,
            Self::Hits => Self::Name,
            Self::Name => Self::Current,
        }
    }

    /// The column it is.
    pub fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Use => "use",
            Self::Hits => "hits",
            Self::Name => "name",
        }
    }
}

/// What keys go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// The list.
    #[default]
    List,
    /// The filter that is being written.
    Filter,
    /// The page of keys.
    Help,
    /// The question whether this set shall be revoked.
    Confirm(u64),
}

/// What is on the screen.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Which list.
    pub list: List,
    /// In which order.
    pub order: Order,
    /// Upside down.
    pub reversed: bool,
    /// Lines with this in their names only.
    pub filter: String,
    /// The chosen line.
    pub chosen: usize,
    /// What keys go to.
    pub mode: Mode,
    /// Something to say.
    pub message: Option<String>,
    /// Why there is no newer sample.
    pub trouble: Option<String>,
}

impl View {
    /// The cgroups to show, in order. The root is in the head of the screen.
    pub fn cgroups<'a>(&self, history: &'a History) -> Vec<&'a CgroupInfo> {
        let Some(sample) = &history.sample else { return Vec::new() };
        let mut all = flat(&sample.cgroups);
        // What has no limit, no charge and no past tells nothing, unless it is asked for by name.
        let tells = |node: &&CgroupInfo| {
            let quiet = node.max == Limit::Max && node.peak == 0 && node.events.max == 0;
            !node.path.is_root() && node.path.as_str().contains(&self.filter) && (!quiet || !self.filter.is_empty())
        };
        all.retain(tells);
        match self.order {
            Order::Current => all.sort_by(|a, b| b.current.cmp(&a.current).then(a.path.cmp(&b.path))),
            Order::Use => all.sort_by(|a, b| share(b).total_cmp(&share(a)).then(a.path.cmp(&b.path))),
            Order::Hits => all.sort_by(|a, b| b.events_local.max.cmp(&a.events_local.max).then(a.path.cmp(&b.path))),
            Order::Name => all.sort_by(|a, b| a.path.cmp(&b.path)),
        }
        if self.reversed {
            all.reverse();
        }
        all
    }

    /// The sets to show, in order.
    pub fn sets<'a>(&self, history: &'a History) -> Vec<&'a SetInfo> {
        let Some(sample) = &history.sample else { return Vec::new() };
        let named = |set: &&SetInfo| set.cgroup.as_str().contains(&self.filter) || set.label.contains(&self.filter);
        let mut all: Vec<&SetInfo> = sample.sets.iter().filter(named).collect();
        match self.order {
            Order::Current | Order::Hits => all.sort_by_key(|set| (std::cmp::Reverse(set.leased), set.set)),
            Order::Use => {
                let share = |set: &SetInfo| f64::from(set.leased) / f64::from(set.quota.max(1));
                all.sort_by(|a, b| share(b).total_cmp(&share(a)).then(a.set.cmp(&b.set)));
            }
            Order::Name => all.sort_by(|a, b| a.label.cmp(&b.label).then(a.set.cmp(&b.set))),
        }
        if self.reversed {
            all.reverse();
        }
        all
    }

    fn lines(&self, history: &History) -> usize {
        match self.list {
            List::Cgroups => self.cgroups(history).len(),
            List::Sets => self.sets(history).len(),
        }
    }

    /// Keeps the chosen line on the list.
    pub fn settle(&mut self, history: &History) {
        self.chosen = self.chosen.min(self.lines(history).saturating_sub(1));
    }

    /// Says something until the next key.
    pub fn say(&mut self, message: String) {
        self.message = Some(message);
    }

    /// A key.
    pub fn press(&mut self, key: KeyEvent, history: &History) -> Option<Wish> {
        self.message = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Some(Wish::Quit);
        }
        let wish = match self.mode {
            Mode::List => self.press_in_list(key.code, history),
            Mode::Filter => {
                self.press_in_filter(key.code);
                None
            }
            Mode::Help => {
                self.mode = Mode::List;
                None
            }
            Mode::Confirm(set) => {
                self.mode = Mode::List;
                // Anything but a clear yes is a no.
                (key.code == KeyCode::Char('y')).then_some(Wish::Revoke(set))
            }
        };
        self.settle(history);
        wish
    }

    fn press_in_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.mode = Mode::List,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::List;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
    }

    fn press_in_list(&mut self, key: KeyCode, history: &History) -> Option<Wish> {
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Wish::Quit),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Tab => {
                self.list = if self.list == List::Cgroups { List::Sets } else { List::Cgroups };
                self.chosen = 0;
            }
            // From a cgroup to its sets.
            KeyCode::Enter if self.list == List::Cgroups => {
                if let Some(node) = self.cgroups(history).get(self.chosen) {
                    (self.filter, self.list, self.chosen) = (node.path.as_str().to_owned(), List::Sets, 0);
                }
            }
            KeyCode::Down | KeyCode::Char('j') => self.chosen = self.chosen.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::PageDown => self.chosen = self.chosen.saturating_add(10),
            KeyCode::PageUp => self.chosen = self.chosen.saturating_sub(10),
            KeyCode::Home => self.chosen = 0,
            KeyCode::End => self.chosen = usize::MAX,
            KeyCode::Char('x') => match (self.list, self.sets(history).get(self.chosen)) {
                (List::Sets, Some(set)) => self.mode = Mode::Confirm(set.set.0),
                _ => self.say("only a set can be revoked: Tab shows them".to_owned()),
            },
            _ => {}
        }
        None
    }
}

/// `current` over the limit that counts; 0 without one.
pub(super) fn share(node: &CgroupInfo) -> f64 {
    match node.effective_max {
        Limit::Count(0) if node.current > 0 => 1.0,
        Limit::Count(count) if count > 0 => node.current as f64 / count as f64,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::sample;
    use super::*;
    use std::time::Instant;

    fn typed(view: &mut View, history: &History, keys: &str) -> Option<Wish> {
        keys.chars().fold(None, |_, c| {
            let code = match c {
                '\t' => KeyCode::Tab,
                '\n' => KeyCode::Enter,
                c => KeyCode::Char(c),
            };
            view.press(KeyEvent::from(code), history)
        })
    }

    fn names(view: &View, history: &History) -> Vec<String> {
        view.cgroups(history).iter().map(|node| node.path.as_str().to_owned()).collect()
    }

    #[test]
    fn keys_sort_filter_and_revoke_only_after_a_yes() {
        let (mut view, mut history) = (View::default(), History::default());
        history.add(sample(4, 9, 3), Instant::now());
        assert_eq!(names(&view, &history), ["/b", "/a"]);
        typed(&mut view, &history, "s");
        assert_eq!((view.order, names(&view, &history)), (Order::Use, vec!["/a".to_owned(), "/b".to_owned()]));
        typed(&mut view, &history, "r");
        assert_eq!(names(&view, &history), ["/b", "/a"]);
        typed(&mut view, &history, "/a\n");
        assert_eq!(names(&view, &history), ["/a"]);
        assert_eq!(typed(&mut view, &history, "x"), None);
        assert!(view.message.is_some(), "a cgroup cannot be revoked");
        assert_eq!(typed(&mut view, &history, "\tx"), None);
        assert_eq!(view.mode, Mode::Confirm(1));
        assert_eq!(typed(&mut view, &history, "n"), None);
        assert_eq!(typed(&mut view, &history, "xy"), Some(Wish::Revoke(1)));
        assert_eq!(typed(&mut view, &history, "q"), Some(Wish::Quit));
    }

    #[test]
    fn the_chosen_line_stays_on_the_list() {
        let (mut view, mut history) = (View::default(), History::default());
        typed(&mut view, &history, "jj\tjx");
        assert_eq!(view.chosen, 0);
        history.add(sample(1, 1, 0), Instant::now());
        view.list = List::Sets;
        typed(&mut view, &history, "jjjj");
        assert_eq!(view.chosen, 1);
    }
}
