//! Which procedures are known to be quick, so that a call need not move to a thread of its own.

use std::collections::HashMap;
use std::time::Duration;

/// A call that took longer is not quick.
const QUICK: Duration = Duration::from_micros(500);

/// So many quick calls in a row make a procedure quick, until one that is not.
const CALLS_IN_A_ROW: i16 = 16;

/// Nor is one that uses SQL, whose time its last calls do not tell: it needs so many calls in a row more that do not.
const CALLS_AFTER_SQL: i16 = 4096;

/// Most procedures that are told apart. Clients choose what they name.
const PROCEDURES_MAX: usize = 1024;

/// What a shard has seen of its procedures, by the names that calls use.
#[derive(Default)]
pub(crate) struct QuickProcedures(HashMap<String, i16>);

impl QuickProcedures {
    pub(crate) fn contains(&self, procedure: &str) -> bool {
        self.0.get(procedure).is_some_and(|&in_a_row| in_a_row >= CALLS_IN_A_ROW)
    }

    /// Takes note of a call; `None`: it was given up, since it took too long.
    pub(crate) fn record(&mut self, procedure: &str, took: Option<Duration>) {
        let is_quick = took.is_some_and(|took| took <= QUICK);
        match self.0.get_mut(procedure) {
            Some(in_a_row) if is_quick => *in_a_row = in_a_row.saturating_add(1),
            Some(in_a_row) => *in_a_row = (*in_a_row).min(0),
            None if is_quick => self.insert(procedure, 1),
            None => {}
        }
    }

    /// Takes note of a call that used SQL.
    pub(crate) fn record_sql(&mut self, procedure: &str) {
        match self.0.get_mut(procedure) {
            Some(in_a_row) => *in_a_row = -CALLS_AFTER_SQL,
            None => self.insert(procedure, -CALLS_AFTER_SQL),
        }
    }

    fn insert(&mut self, procedure: &str, in_a_row: i16) {
        if self.0.len() >= PROCEDURES_MAX {
            self.0.clear();
        }
        self.0.insert(procedure.to_owned(), in_a_row);
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
    fn one_that_uses_sql_is_not() {
        let mut quick = QuickProcedures::default();
        (0..CALLS_IN_A_ROW).for_each(|_| quick.record("l.f", Some(QUICK)));
        quick.record_sql("l.f");
        for _ in 0..CALLS_AFTER_SQL + CALLS_IN_A_ROW {
            assert!(!quick.contains("l.f"));
            quick.record("l.f", Some(QUICK));
        }
        assert!(quick.contains("l.f"));
        quick.record_sql("l.g");
        (0..CALLS_IN_A_ROW).for_each(|_| quick.record("l.g", Some(QUICK)));
        quick.record("l.g", None);
        assert!(!quick.contains("l.g"));
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
