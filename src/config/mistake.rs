//! What is wrong with a config, each with its place, the line and a hint, in the shape that compilers print.
//!
//! ```text
//!  preshard.toml:3:11: proxy.workers must be a whole number between 0 and 256
//!    |
//!  3 | workers = "many"
//!    |           ^^^^^^
//!    = hint: write it without quotes
//! ```
//!
//! Lines that may hold a password are shown without their value.

use std::fmt;
use std::ops::Range;

/// The status that a command ends with when its config is wrong.
pub const EXIT_STATUS: u8 = 2;

/// Longest piece of a line that is shown.
const EXCERPT_MAX: usize = 160;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// These bytes of the file.
    File(Range<usize>),
    /// This environment variable.
    Env(String),
    /// It was set while running.
    Set(&'static str),
    /// The table of defaults, or the file as a whole.
    Whole,
}

/// One mistake before it is put beside the text it is about.
#[derive(Clone, Debug)]
pub(crate) struct Mistake {
    pub(crate) origin: Origin,
    pub(crate) what: String,
    pub(crate) hint: String,
}

/// One mistake, ready to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// `file:line:col`, the file alone, or `environment variable NAME`.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// The line with a caret under the mistake, if there is one to show.
    pub excerpt: Option<String>,
    /// What to do; may be empty.
    pub hint: String,
}

/// All mistakes of a config, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

// === impl ConfigErrors ===

impl ConfigErrors {
    pub(crate) fn of(file: &str, text: &str, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| match &mistake.origin {
            Origin::Whole => 0,
            Origin::File(span) => span.start.saturating_add(1),
            Origin::Env(_) | Origin::Set(_) => usize::MAX,
        });
        Self(
            mistakes
                .into_iter()
                .map(|mistake| ConfigError::of(file, text, mistake))
                .collect(),
        )
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

// === impl ConfigError ===

impl ConfigError {
    fn of(file: &str, text: &str, mistake: Mistake) -> Self {
        let Mistake { origin, what, hint } = mistake;
        let (place, excerpt) = match origin {
            Origin::Whole => (file.to_owned(), None),
            Origin::Env(name) => (format!("environment variable {name}"), None),
            Origin::Set(path) => (format!("the new value of {path}"), None),
            Origin::File(span) => {
                let (line, column, excerpt) = locate(text, &span);
                (format!("{file}:{line}:{column}"), Some(excerpt))
            }
        };
        Self {
            place,
            what,
            excerpt,
            hint,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n{excerpt}")?;
        }
        if !self.hint.is_empty() {
            write!(f, "\n  = hint: {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Line and column (from 1) of a span's start, and its line with a caret.
fn locate(text: &str, span: &Range<usize>) -> (usize, usize, String) {
    let start = boundary(text, span.start);
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let number = text[..start].matches('\n').count() + 1;
    let column = text[line_start..start].chars().count() + 1;
    let line = text[line_start..line_end].trim_end();
    let gutter = " ".repeat(number.to_string().len());
    let excerpt = match line.split_once('=') {
        Some((name, _)) if may_hold_secret(line) => format!("{gutter} |\n{number} | {name}= <redacted>"),
        None if may_hold_secret(line) => format!("{gutter} |\n{number} | <redacted>"),
        Some(_) | None => {
            let shown: String = line.chars().take(EXCERPT_MAX).collect();
            // Tabs stay tabs, so that the caret stands under its letter whatever their width.
            let before = text[line_start..start].chars().take(EXCERPT_MAX);
            let pad: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let end = boundary(text, span.end).clamp(start, line_start + line.len().max(start - line_start));
            let width = text[start..end].chars().count().clamp(1, EXCERPT_MAX);
            format!(
                "{gutter} |\n{number} | {shown}\n{gutter} | {pad}{}",
                "^".repeat(width)
            )
        }
    };
    (number, column, excerpt)
}

/// The nearest start of a character at or before a position.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or_default()
}

fn may_hold_secret(line: &str) -> bool {
    let lower = line.to_ascii_lowercase().replace("password_file", "");
    // An address may have one before its @.
    let in_address = lower
        .split_once("://")
        .is_some_and(|(_, rest)| rest.contains('@'));
    in_address
        || ["password", "secret", "token"]
            .iter()
            .any(|word| lower.contains(word))
}
