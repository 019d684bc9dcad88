//! Decides whether a history is linearizable: whether every operation can be given one moment between
//! its invocation and its return at which it took effect, such that a single-threaded register would
//! have given the same answers.
//!
//! The algorithm is Wing and Gong's search (1993) with Lowe's memoisation (2017): try every operation that
//! may come next, remember which (set of operations done, state) were reached before. Keys are
//! independent objects, so each is checked alone (Herlihy and Wing's locality).
//!
//! Why our own and not a crate: `todc-utils` has no operations of unknown outcome, clones a bit per
//! operation of the whole history on every step, and answers only yes or no; `porcupine-rs` must place every operation of
//! unknown outcome somewhere, and tries them as eagerly as the others. Our faults leave dozens of those on
//! one key, and a search that treats them so doubles with each. Here they are optional, tried last, and
//! alike ones are tried once: if two unknown requests ask the same, the one sent first can stand for both.
//!
//! Three more rules keep the search small, and none loses an answer:
//! - An operation that may come next, whose answer fits and says that it changed nothing (a read, a refused
//!   compare-and-swap), comes next. Moving it forward cannot disturb another.
//! - An operation of unknown outcome is not tried where it would change nothing; it remains for later.
//! - Where the same answered operations led to the same state before, with no other unknown ones used up, what
//!   follows was searched already: whatever could follow now could follow then.
//!
//! A search that exceeds its budget is [`Verdict::Undecided`], which no test takes for success.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};

use crate::history::{Event, History, Operation, Outcome};

/// Steps that a search may take on one key; half a minute of work.
const STEPS_MAX: u64 = 3_000_000;

/// The state of a register: its value, if any.
type Register = Option<i64>;

/// What the checker found.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A legal order exists for every key.
    Linearizable,
    /// No legal order exists for this key.
    Violated(Violation),
    /// The search on this key was given up; the explanation is of the longest order until then.
    Undecided(Violation),
}

/// A key whose history has no legal order, or none that was found.
#[derive(PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// For people: how far the longest legal order came, and the operations that fit nowhere after it.
    pub explanation: String,
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:?}: {}", self.key, self.explanation)
    }
}

/// Checks every key of a history.
pub fn check(history: &History) -> Verdict {
    for (key, events) in history {
        match check_key(events) {
            KeyVerdict::Linearizable => {}
            KeyVerdict::Violated(explanation) => {
                return Verdict::Violated(Violation { key: key.clone(), explanation });
            }
            KeyVerdict::Undecided(explanation) => {
                return Verdict::Undecided(Violation { key: key.clone(), explanation });
            }
        }
    }
    Verdict::Linearizable
}

/// Fails the test, with the explanation, unless the history is linearizable.
///
/// # Panics
/// If it is not, or if the search was given up.
pub fn assert_linearizable(history: &History) {
    match check(history) {
        Verdict::Linearizable => {}
        Verdict::Violated(violation) => panic!("the history is not linearizable\n{violation:?}"),
        Verdict::Undecided(longest) => panic!("found no legal order within {STEPS_MAX} steps\n{longest:?}"),
    }
}

/// What a register answers, and its state after.
fn step(state: Register, operation: Operation) -> (Outcome, Register) {
    match operation {
        Operation::Get => (Outcome::Value(state), state),
        Operation::Put(value) => (Outcome::Stored, Some(value)),
        Operation::Delete => (Outcome::Deleted(state.is_some()), None),
        Operation::Cas { expected, new } if state == expected => (Outcome::Swapped, Some(new)),
        Operation::Cas { .. } => (Outcome::Found(state), state),
        Operation::Add(delta) => {
            let sum = state.unwrap_or(0) + delta;
            (Outcome::Sum(sum), Some(sum))
        }
    }
}

/// Whether an operation with this answer left every state as it was. A put of the value that is there
/// already does not count: put after a delete, it would have changed the state.
fn changes_nothing(answer: Outcome) -> bool {
    matches!(answer, Outcome::Value(_) | Outcome::Found(_) | Outcome::Deleted(false))
}

enum KeyVerdict {
    Linearizable,
    Violated(String),
    Undecided(String),
}

/// Which operations are done. Those below `low` all are; of the later ones, those listed.
#[derive(Clone)]
struct Done {
    low: usize,
    /// Ascending indices of answered operations above `low`.
    answered: Vec<usize>,
    /// Ascending indices of operations of unknown outcome.
    unknown: Vec<usize>,
}

impl Done {
    fn with_answered(&self, index: usize) -> Done {
        let mut next = self.clone();
        if let Err(position) = next.answered.binary_search(&index) {
            next.answered.insert(position, index);
        }
        while next.answered.first() == Some(&next.low) {
            next.answered.remove(0);
            next.low += 1;
        }
        next
    }

    fn with_unknown(&self, index: usize) -> Done {
        let mut next = self.clone();
        if let Err(position) = next.unknown.binary_search(&index) {
            next.unknown.insert(position, index);
        }
        next
    }
}

/// Where the search has been: for the answered operations done and the state, the sets of unknown ones used up.
#[derive(Default)]
struct Seen(HashMap<(usize, Vec<usize>, Register), Vec<Vec<usize>>>);

impl Seen {
    fn is_new(&mut self, done: &Done, state: Register) -> bool {
        match self.0.entry((done.low, done.answered.clone(), state)) {
            Entry::Vacant(entry) => {
                entry.insert(vec![done.unknown.clone()]);
                true
            }
            Entry::Occupied(mut entry) => {
                let included = |used: &Vec<usize>| used.iter().all(|index| done.unknown.binary_search(index).is_ok());
                if entry.get().iter().any(included) {
                    return false;
                }
                entry.get_mut().push(done.unknown.clone());
                true
            }
        }
    }
}

/// One key's operations, each list by invocation.
struct Operations<'h> {
    answered: Vec<(&'h Event, u64, Outcome)>,
    unknown: Vec<&'h Event>,
}

/// A point of the search: what is done, the state after it, and what is still to be tried from here.
struct Branch {
    done: Done,
    state: Register,
    untried: Vec<(Done, Register)>,
}

fn check_key(events: &[Event]) -> KeyVerdict {
    let mut operations = Operations { answered: Vec::new(), unknown: Vec::new() };
    for event in events {
        match event.returned {
            Some((tick, outcome)) => operations.answered.push((event, tick, outcome)),
            // A read that nobody saw the answer of says nothing.
            None if event.operation == Operation::Get => {}
            None => operations.unknown.push(event),
        }
    }
    operations.answered.sort_by_key(|(event, ..)| event.invoked);
    operations.unknown.sort_by_key(|event| event.invoked);

    let start = Done { low: 0, answered: Vec::new(), unknown: Vec::new() };
    let mut seen = Seen::default();
    let mut path = vec![operations.branch(start, None)];
    let (mut furthest, mut furthest_count) = ((path[0].done.clone(), path[0].state), 0);
    let mut steps = 0;
    while let Some(branch) = path.last_mut() {
        let count = branch.done.low + branch.done.answered.len();
        if count == operations.answered.len() {
            return KeyVerdict::Linearizable;
        }
        if count > furthest_count {
            (furthest, furthest_count) = ((branch.done.clone(), branch.state), count);
        }
        let Some((done, state)) = branch.untried.pop() else {
            path.pop();
            continue;
        };
        steps += 1;
        if steps > STEPS_MAX {
            return KeyVerdict::Undecided(operations.explain(&furthest.0, furthest.1));
        }
        if seen.is_new(&done, state) {
            path.push(operations.branch(done, state));
        }
    }
    KeyVerdict::Violated(operations.explain(&furthest.0, furthest.1))
}

impl Operations<'_> {
    /// The answered operations that may come next: those invoked before the first of the others returned.
    /// And the tick of that first return, after which nothing else may be put in front.
    fn next_answered(&self, done: &Done) -> (Vec<usize>, u64) {
        let mut open = Vec::new();
        let mut first_return = u64::MAX;
        for (index, (event, returned, _)) in self.answered.iter().enumerate().skip(done.low) {
            if event.invoked > first_return {
                break;
            }
            if done.answered.binary_search(&index).is_err() {
                first_return = first_return.min(*returned);
                open.push(index);
            }
        }
        open.retain(|&index| self.answered[index].0.invoked < first_return);
        (open, first_return)
    }

    /// A point of the search with everything that may follow it, the best guess last.
    fn branch(&self, done: Done, state: Register) -> Branch {
        let (mut open, first_return) = self.next_answered(&done);
        // The one that returned first is the likeliest to have happened first; `untried` is a stack.
        open.sort_by_key(|&index| std::cmp::Reverse(self.answered[index].1));
        let mut fitting = Vec::new();
        for index in open {
            let (event, _, answer) = self.answered[index];
            let (outcome, after) = step(state, event.operation);
            if outcome != answer {
                continue;
            }
            if changes_nothing(answer) {
                let next = done.with_answered(index);
                return Branch { done, state, untried: vec![(next, state)] };
            }
            fitting.push((done.with_answered(index), after));
        }
        let mut untried = Vec::new();
        let mut alike = HashSet::new();
        for (index, event) in self.unknown.iter().enumerate() {
            if event.invoked > first_return {
                break;
            }
            if done.unknown.binary_search(&index).is_ok() || !alike.insert(event.operation) {
                continue;
            }
            let (_, after) = step(state, event.operation);
            if after != state {
                untried.push((done.with_unknown(index), after));
            }
        }
        untried.reverse();
        untried.append(&mut fitting);
        Branch { done, state, untried }
    }

    fn explain(&self, done: &Done, state: Register) -> String {
        let (open, _) = self.next_answered(done);
        let mut text = format!(
            "{} of {} answered operations can be put in order; the value is then {state:?}, and none of these can follow:\n",
            done.low + done.answered.len(),
            self.answered.len(),
        );
        for index in open {
            let _ = writeln!(text, "  {}", self.answered[index].0);
        }
        text.push_str("what returned last before them:\n");
        let mut before: Vec<_> = (0..done.low).chain(done.answered.iter().copied()).collect();
        before.sort_by_key(|&index| self.answered[index].1);
        for &index in before.iter().rev().take(12).rev() {
            let _ = writeln!(text, "  {}", self.answered[index].0);
        }
        let mut unused: HashMap<Operation, usize> = HashMap::new();
        for (index, event) in self.unknown.iter().enumerate() {
            if done.unknown.binary_search(&index).is_err() {
                *unused.entry(event.operation).or_default() += 1;
            }
        }
        if !unused.is_empty() {
            let _ = writeln!(text, "operations of unknown outcome, not needed so far: {unused:?}");
        }
        text
    }
}
