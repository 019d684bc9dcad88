//! Where in a nested value something is, for messages: `$.items[3].price`.

use std::fmt;

/// Longest part of a field's name that is shown, characters.
const NAME_CHARS: usize = 40;

/// From the whole value, `$`, down to the present one.
#[derive(Default)]
pub(crate) struct Path(Vec<Step>);

/// One level down.
pub(crate) enum Step {
    Field(Vec<u8>),
    /// Counted from 1.
    Element(usize),
}

impl Path {
    pub(crate) fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    pub(crate) fn pop(&mut self) {
        self.0.pop();
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("$")?;
        for step in &self.0 {
            match step {
                Step::Element(place) => write!(formatter, "[{place}]")?,
                Step::Field(name) if is_identifier(name) => write!(formatter, ".{}", shortened(name))?,
                Step::Field(name) => write!(formatter, "[{:?}]", shortened(name))?,
            }
        }
        Ok(())
    }
}

fn is_identifier(name: &[u8]) -> bool {
    name.first().is_some_and(|first| !first.is_ascii_digit())
        && name.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

pub(crate) fn shortened(name: &[u8]) -> String {
    // A character has at most 4 bytes.
    String::from_utf8_lossy(&name[..name.len().min(NAME_CHARS * 4)]).chars().take(NAME_CHARS).collect()
}
