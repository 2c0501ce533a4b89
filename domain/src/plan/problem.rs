//! What is wrong with a plan: every problem with its place and its remedy, drawn under the line.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::ops::Range;

/// Nobody reads more at a time.
const MOST_DRAWN: usize = 50;

/// One problem of a plan file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanProblem {
    /// What is wrong, with the value.
    pub what: String,
    /// Where: bytes in the source; `None` concerns the whole file.
    pub place: Option<Range<usize>>,
    /// What to write instead.
    pub remedy: Option<String>,
}

impl PlanProblem {
    /// A problem at a place.
    pub fn at(place: Range<usize>, what: impl Into<String>) -> Self {
        Self { what: what.into(), place: Some(place), remedy: None }
    }

    /// A problem of the whole file.
    pub fn of_file(what: impl Into<String>) -> Self {
        Self { what: what.into(), place: None, remedy: None }
    }

    /// The same with a remedy.
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// Draws all problems with file, line and caret.
    pub fn render(problems: &[Self], path: &str, source: &str, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for problem in problems.iter().take(MOST_DRAWN) {
            let title = Level::ERROR.primary_title(problem.what.as_str());
            let mut group = match problem.place.clone() {
                Some(place) => {
                    let end = place.end.min(source.len());
                    let start = place.start.min(end);
                    let mark = AnnotationKind::Primary.span(start..end);
                    title.element(Snippet::source(source).path(path).annotation(mark))
                }
                None => title.element(annotate_snippets::Origin::path(path)),
            };
            if let Some(remedy) = &problem.remedy {
                group = group.element(Level::HELP.message(remedy.as_str()));
            }
            text.push_str(&renderer.render(&[group]));
            text.push_str("\n\n");
        }
        if let Some(more @ 1..) = problems.len().checked_sub(MOST_DRAWN) {
            text.push_str(&format!("and {more} more problems\n"));
        }
        text
    }
}
