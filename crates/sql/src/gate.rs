//! What statements may do.
//!
//! SQLite asks for leave as it compiles a statement, for each thing that it would do.

use std::cell::{Cell, RefCell};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization, TransactionOperation};

/// Pragmas that tell something, and whose argument, where they take one, says what about.
const READING_PRAGMAS: &[&str] = &[
    "collation_list",
    "compile_options",
    "database_list",
    "foreign_key_check",
    "foreign_key_list",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "module_list",
    "pragma_list",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// Pragmas that tell something without an argument, and with one would change what is not the request's to change.
const PRAGMAS_WITHOUT_ARGUMENT: &[&str] =
    &["data_version", "encoding", "freelist_count", "max_page_count", "page_count", "page_size", "schema_version"];

/// Pragmas that change something which belongs to the database or to the transaction.
const WRITING_PRAGMAS: &[&str] = &["application_id", "defer_foreign_keys", "optimize", "user_version"];

/// Virtual tables that keep what they hold in the database, or hold nothing of their own.
const MODULES: &[&str] =
    &["dbstat", "fts3", "fts3tokenize", "fts4", "fts4aux", "fts5", "fts5vocab", "rtree", "rtree_i32"];

/// Functions that load code, or take an address for an argument.
const REFUSED_FUNCTIONS: &[&str] = &["load_extension", "fts3_tokenizer"];

/// Whose statements are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// This crate's own.
    Internal,
    /// A client's.
    Client { read_only: bool },
    /// A schema's migration.
    Migration,
    /// A schema's DDL.
    Ddl,
}

/// The answers for one request.
#[derive(Debug)]
pub(crate) struct Gate {
    mode: Cell<Mode>,
    /// Why the last thing was refused: SQLite would say no more than "not authorized".
    refused: RefCell<Option<String>>,
    /// The transaction has not begun, and foreign keys can still be switched.
    before_transaction: Cell<bool>,
    noticed: Cell<Noticed>,
}

/// What the statements compiled so far would do, where that outlives a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noticed {
    /// The last statement is a pragma.
    pub(crate) pragma: bool,
    /// The last statement switches foreign keys.
    pub(crate) switches_foreign_keys: bool,
    /// Something temporary, which the connection keeps, was made.
    pub(crate) temporary: bool,
}

impl Gate {
    pub(crate) fn new() -> Gate {
        Gate {
            mode: Cell::new(Mode::Internal),
            refused: RefCell::new(None),
            before_transaction: Cell::new(true),
            noticed: Cell::default(),
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode.get()
    }

    /// Whose statements follow.
    pub(crate) fn enter(&self, mode: Mode) {
        self.mode.set(mode);
    }

    pub(crate) fn transaction_began(&self) {
        self.before_transaction.set(false);
    }

    /// What was noticed so far; to be called before each statement.
    pub(crate) fn next_statement(&self) {
        self.refused.take();
        self.noticed.set(Noticed { pragma: false, switches_foreign_keys: false, ..self.noticed.get() });
    }

    pub(crate) fn noticed(&self) -> Noticed {
        self.noticed.get()
    }

    pub(crate) fn take_refused(&self) -> Option<String> {
        self.refused.take()
    }

    pub(crate) fn decide(&self, asked: &AuthContext<'_>) -> Authorization {
        let refused = match self.mode.get() {
            Mode::Internal => None,
            Mode::Client { read_only } => self.check(&asked.action, read_only),
            Mode::Migration => self.check(&asked.action, false),
            Mode::Ddl => check_ddl(&asked.action).or_else(|| self.check(&asked.action, false)),
        };
        match refused {
            None => Authorization::Allow,
            Some(reason) => {
                self.refused.borrow_mut().get_or_insert(reason);
                Authorization::Deny
            }
        }
    }

    fn check(&self, action: &AuthAction<'_>, read_only: bool) -> Option<String> {
        let mut noticed = self.noticed.get();
        let refused = match *action {
            AuthAction::Attach { filename: "" } | AuthAction::Detach { .. } => Some(
                "VACUUM, ATTACH and DETACH are refused: a request has one database, and one transaction".to_owned(),
            ),
            AuthAction::Attach { .. } => {
                Some("ATTACH and VACUUM INTO are refused: a request has one database".to_owned())
            }
            AuthAction::Transaction { operation } => {
                let statement = match operation {
                    TransactionOperation::Begin => "BEGIN",
                    TransactionOperation::Rollback => "ROLLBACK",
                    _ => "COMMIT",
                };
                Some(format!(
                    "{statement} is refused: all statements of a request are one transaction; use SAVEPOINT within it"
                ))
            }
            AuthAction::Pragma { pragma_name, pragma_value } => {
                noticed.pragma = true;
                let name = pragma_name.to_ascii_lowercase();
                if name == "foreign_keys" && pragma_value.is_some() {
                    noticed.switches_foreign_keys = true;
                }
                self.check_pragma(&name, pragma_value.is_some(), read_only)
            }
            AuthAction::CreateVtable { module_name, .. } => {
                let known = MODULES.iter().any(|known| known.eq_ignore_ascii_case(module_name));
                (!known).then(|| format!("virtual tables of the module {module_name} are refused"))
            }
            AuthAction::Function { function_name } => {
                let refused = REFUSED_FUNCTIONS.iter().any(|refused| refused.eq_ignore_ascii_case(function_name));
                refused.then(|| format!("the function {function_name} is refused"))
            }
            AuthAction::CreateTempTable { .. }
            | AuthAction::CreateTempIndex { .. }
            | AuthAction::CreateTempTrigger { .. }
            | AuthAction::CreateTempView { .. } => {
                noticed.temporary = true;
                None
            }
            AuthAction::Unknown { code, .. } => Some(format!("an action that is not known here, {code}, is refused")),
            _ => None,
        };
        self.noticed.set(noticed);
        refused
    }

    fn check_pragma(&self, name: &str, has_argument: bool, read_only: bool) -> Option<String> {
        if READING_PRAGMAS.contains(&name) {
            return None;
        }
        if PRAGMAS_WITHOUT_ARGUMENT.contains(&name) {
            return has_argument.then(|| format!("PRAGMA {name} is refused with an argument"));
        }
        if WRITING_PRAGMAS.contains(&name) {
            let writes = has_argument || name == "optimize";
            return (writes && read_only).then(|| format!("PRAGMA {name} is refused in a query, which only reads"));
        }
        if name == "foreign_keys" {
            let late =
                has_argument && !(self.before_transaction.get() && matches!(self.mode.get(), Mode::Client { .. }));
            return late.then(|| "PRAGMA foreign_keys is refused but as a request's first statement".to_owned());
        }
        Some(format!("PRAGMA {name} is refused"))
    }
}

/// What a database is made of is not temporary.
fn check_ddl(action: &AuthAction<'_>) -> Option<String> {
    let temporary = matches!(
        action,
        AuthAction::CreateTempTable { .. }
            | AuthAction::CreateTempIndex { .. }
            | AuthAction::CreateTempTrigger { .. }
            | AuthAction::CreateTempView { .. }
    );
    temporary.then(|| "CREATE TEMP is refused in a schema's DDL".to_owned())
}
