//! What is shown while a run is under way: a bar on a terminal, a line per phase elsewhere.

use crate::output::{plain, say};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use tuplelab_domain::units::thousands;
use tuplelab_proto::v1::RunUpdate;

/// The display of one run.
pub struct Progress {
    bar: Option<ProgressBar>,
    last: (u32, String),
}

impl Progress {
    /// A bar if standard error is a terminal that takes one.
    pub fn new() -> Self {
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let bar = (std::io::stderr().is_terminal() && !dumb).then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar
        });
        Self { bar, last: (0, String::new()) }
    }

    /// Shows an update.
    pub fn show(&mut self, update: &RunUpdate) {
        let case = plain(&update.case);
        let failed =
            if update.failed > 0 { format!(", {} failed", thousands(update.failed)) } else { String::new() };
        match &self.bar {
            Some(bar) => {
                let step = if update.step > 0 {
                    format!("[{}/{}]", update.step, update.steps)
                } else {
                    "[-]".into()
                };
                bar.set_prefix(step);
                bar.set_length(update.target);
                bar.set_position(update.established);
                bar.set_message(format!("{}: {case}{failed}", update.phase));
            }
            None => {
                let now = (update.step, update.phase.clone());
                if now != self.last && update.phase == "stepping" {
                    say(&format!("[{}/{}] {case}: {} steps", update.step, update.steps, update.target));
                }
                if now != self.last && matches!(update.phase.as_str(), "ramping" | "holding") {
                    say(&format!(
                        "[{}/{}] {case}: {} {} of {}{failed}",
                        update.step,
                        update.steps,
                        update.phase,
                        thousands(update.established),
                        thousands(update.target)
                    ));
                }
                self.last = now;
            }
        }
    }

    /// Says something above the bar.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
