//! Which procedures are known to be quick, so that a call need not move to a thread of its own.

use std::collections::HashMap;
use std::time::Duration;

/// A call that took longer is not quick.
const QUICK: Duration = Duration::from_micros(500);

/// So many quick calls in a row make a procedure quick, until one that is not.
const CALLS_IN_A_ROW: u8 = 16;

/// Most procedures that are told apart. Clients choose what they name.
const PROCEDURES_MAX: usize = 1024;

/// What a shard has seen of its procedures, by the names that calls use.
#[derive(Default)]
pub(crate) struct QuickProcedures(HashMap<String, u8>);

impl QuickProcedures {
    pub(crate) fn contains(&self, procedure: &str) -> bool {
        self.0.get(procedure).is_some_and(|&in_a_row| in_a_row >= CALLS_IN_A_ROW)
    }

    /// Takes note of a call; `None`: it was given up, since it took too long.
    pub(crate) fn record(&mut self, procedure: &str, took: Option<Duration>) {
        let is_quick = took.is_some_and(|took| took <= QUICK);
        match self.0.get_mut(procedure) {
            Some(in_a_row) if is_quick => *in_a_row = in_a_row.saturating_add(1),
            Some(in_a_row) => *in_a_row = 0,
            None if is_quick => {
                if self.0.len() >= PROCEDURES_MAX {
                    self.0.clear();
                }
                self.0.insert(procedure.to_owned(), 1);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_procedure_is_quick_after_many_quick_calls_until_one_that_is_not() {
        let mut quick = QuickProcedures::default();
        for slow in [Some(QUICK * 2), None] {
            for _ in 0..CALLS_IN_A_ROW {
                assert!(!quick.contains("l.f"));
                quick.record("l.f", Some(QUICK));
            }
            assert!(quick.contains("l.f") && !quick.contains("l.g"));
            quick.record("l.f", slow);
        }
        assert!(!quick.contains("l.f"));
    }

    #[test]
    fn names_are_bounded() {
        let mut quick = QuickProcedures::default();
        for number in 0..PROCEDURES_MAX * 2 + 1 {
            quick.record(&format!("l.f{number}"), Some(Duration::ZERO));
        }
        assert!(quick.0.len() <= PROCEDURES_MAX);
    }
}
