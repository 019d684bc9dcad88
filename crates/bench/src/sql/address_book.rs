//! The database that every user has: an address book.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// The dbname of all databases.
pub(crate) const DBNAME: &str = "addrbook";

/// A file of plain SQLite with it has three pages of 4 KiB.
pub(crate) const DDL: &str = "\
CREATE TABLE contacts (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT, phone TEXT);
CREATE INDEX contacts_by_name ON contacts (name);
";

pub(crate) const INSERT: &str = "INSERT INTO contacts (name, email, phone) VALUES (?1, ?2, ?3)";
pub(crate) const UPDATE: &str = "UPDATE contacts SET phone = ?2 WHERE id = ?1";
pub(crate) const SELECT: &str = "SELECT name, email, phone FROM contacts WHERE id = ?1";
/// Rows of the first request to a database; the ids say which are there, so that it may be sent again.
pub(crate) const FILL: &str = "INSERT OR IGNORE INTO contacts (id, name, email, phone) VALUES (?1, ?2, ?3, ?4)";

const FIRST: [&str; 24] = [
    "Ada",
    "Alan",
    "Barbara",
    "Chen",
    "Dorothy",
    "Edsger",
    "Fatima",
    "Grace",
    "Hedy",
    "Ingrid",
    "James",
    "Katherine",
    "Lu",
    "Margaret",
    "Niklaus",
    "Olga",
    "Priya",
    "Radia",
    "Sophie",
    "Tim",
    "Ursula",
    "Vint",
    "Wangari",
    "Yukihiro",
];
const LAST: [&str; 24] = [
    "Lovelace",
    "Turing",
    "Liskov",
    "Wei",
    "Vaughan",
    "Dijkstra",
    "Al-Fihri",
    "Hopper",
    "Lamarr",
    "Daubechies",
    "Gosling",
    "Johnson",
    "Zhang",
    "Hamilton",
    "Wirth",
    "Ladyzhenskaya",
    "Raman",
    "Perlman",
    "Wilson",
    "Berners",
    "Franklin",
    "Cerf",
    "Maathai",
    "Matsumoto",
];
const DOMAIN: [&str; 6] =
    ["example.org", "example.com", "mail.example.net", "post.example", "uni.example", "lab.example.org"];

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contact {
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) phone: String,
}

impl Contact {
    pub(crate) fn random(random: &mut StdRng) -> Contact {
        let mut pick = |from: &[&'static str]| from[random.random_range(0..from.len())];
        let (first, last, domain) = (pick(&FIRST), pick(&LAST), pick(&DOMAIN));
        let number: u16 = random.random_range(0..10_000);
        Contact {
            name: format!("{first} {last}"),
            email: format!("{}.{}{number}@{domain}", first.to_lowercase(), last.to_lowercase()),
            phone: phone(random),
        }
    }
}

fn phone(random: &mut StdRng) -> String {
    let (area, number): (u32, u32) = (random.random_range(100..1000), random.random_range(0..10_000_000));
    format!("+44 {area} {number:07}")
}

/// The rows that a database begins with: the same in every run and on every system.
pub(crate) fn contacts(database: u32, rows: u32) -> Vec<Contact> {
    let mut random = StdRng::seed_from_u64(u64::from(database));
    (0..rows).map(|_| Contact::random(&mut random)).collect()
}

/// Whose database it is.
pub(crate) fn user(database: u32) -> String {
    format!("user-{database:09}")
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// A contact more.
    Insert(Contact),
    /// Another phone number.
    Update {
        /// From 1.
        id: u32,
        phone: String,
    },
}

/// One client's endless writes: inserts and updates by halves, each in a database that is uniform over the active ones. The
/// same client number gives the same ones, on every system.
pub(crate) struct Writes {
    active: u32,
    rows: u32,
    random: StdRng,
}

impl Writes {
    pub(crate) fn new(active: u32, rows: u32, client: usize) -> Writes {
        Writes { active, rows, random: StdRng::seed_from_u64(client as u64 + 1) }
    }

    /// The database, and what to write there.
    pub(crate) fn next(&mut self) -> (u32, Write) {
        let database = self.random.random_range(0..self.active);
        let write = if self.random.random() {
            Write::Insert(Contact::random(&mut self.random))
        } else {
            Write::Update { id: self.random.random_range(1..=self.rows), phone: phone(&mut self.random) }
        };
        (database, write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_begins_the_same_everywhere_and_unlike_its_neighbour() {
        assert_eq!(contacts(7, 10), contacts(7, 10));
        assert_ne!(contacts(7, 10), contacts(8, 10));
        let rows = contacts(7, 10);
        assert!(
            rows.iter().all(|row| row.email.contains('@') && row.phone.len() == "+44 207 9460123".len()),
            "{rows:?}"
        );
    }

    #[test]
    fn writes_are_inserts_and_updates_by_halves_within_the_active_databases() {
        let (mut first, mut again, mut neighbour) =
            (Writes::new(10, 5, 1), Writes::new(10, 5, 1), Writes::new(10, 5, 2));
        let (mut inserts, mut same, mut used) = (0, 0, [false; 10]);
        for _ in 0..1000 {
            let (database, write) = first.next();
            assert_eq!((database, write.clone()), again.next());
            same += usize::from((database, write.clone()) == neighbour.next());
            used[database as usize] = true;
            match write {
                Write::Insert(_) => inserts += 1,
                Write::Update { id, .. } => assert!((1..=5).contains(&id)),
            }
        }
        assert!((400..600).contains(&inserts), "{inserts}");
        assert!(same < 10 && used == [true; 10]);
    }
}
