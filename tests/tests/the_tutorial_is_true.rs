//! The session of docs/procedures.md, from an empty file to production: each file that it shows is written, each command
//! run, and each answer compared.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cirrus_tests::cluster::{TestCluster, cirrus_binary};
use cirrus_tests::outcome::TestResult;
use tokio::process::Command;

const SESSION: &str = "From an empty file to production";

/// What a reader does with a block.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Write { file: PathBuf, text: String },
    Run { command: String, prints: String },
}

/// The steps of one section of a page: blocks of Lua that name their file in the first line, and of consoles.
fn steps(page: &str, section: &str) -> Result<Vec<Step>> {
    let start = page.find(&format!("\n## {section}\n")).with_context(|| format!("no section {section:?}"))?;
    let rest = &page[start + 1..];
    let section = rest.find("\n## ").map_or(rest, |end| &rest[..end]);
    let mut steps = Vec::new();
    for block in section.split("\n```").skip(1).step_by(2) {
        let (kind, text) = block.split_once('\n').context("a block without an end")?;
        match kind {
            "console" => steps.extend(session(text)?),
            "lua" => {
                let file = text.lines().next().and_then(|line| line.strip_prefix("-- ")).context("a file's name")?;
                steps.push(Step::Write { file: PathBuf::from(file), text: format!("{text}\n") });
            }
            _ => {}
        }
    }
    Ok(steps)
}

fn session(text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step::Run { command: command.to_owned(), prints: String::new() }),
            (None, Some(Step::Run { prints, .. })) => {
                prints.push_str(line);
                prints.push('\n');
            }
            _ => bail!("a session begins with a command, not with {line:?}"),
        }
    }
    Ok(steps)
}

/// The words of each line that are the same on each machine and each day.
fn comparable(text: &str) -> Vec<Vec<String>> {
    let is_number = |word: &str| !word.is_empty() && word.chars().all(|char| char.is_ascii_digit() || char == '.');
    let is_operation = |word: &str| word.starts_with("kv.") || word == "error";
    let lines = text.trim_end().lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hides = |index: usize| {
            let (word, next) = (words[index], words.get(index + 1).copied().unwrap_or(""));
            let timed = is_number(word) && matches!(next, "ms" | "us" | "bytes");
            let step = index < 2 && is_number(word) && words.get(2).is_some_and(|word| is_operation(word));
            let file = index == 3 && words.len() == 4 && words[0].ends_with("_test.lua");
            let moment = word.len() == 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
            let hash = word.len() == 12 && word.chars().all(|char| char.is_ascii_hexdigit());
            timed || step || file || moment || hash
        };
        (0..words.len()).map(|index| if hides(index) { "~".to_owned() } else { words[index].to_owned() }).collect()
    });
    lines.collect()
}

async fn run(command: &str, directory: &Path, endpoints: &str) -> Result<String> {
    let binaries = cirrus_binary()?.parent().context("the binary's directory")?.to_owned();
    let path = std::env::join_paths(
        std::iter::once(binaries).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )?;
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec 2>&1\n{command}")]).current_dir(directory).env("PATH", path);
    shell.env("CIRRUS_ENDPOINTS", endpoints).env("USER", "ada").env_remove("CIRRUS_AUTHOR");
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let ended = shell.spawn()?.wait_with_output();
    let output = tokio::time::timeout(Duration::from_secs(60), ended).await.context("it takes over a minute")??;
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_session_prints_what_the_page_shows() -> TestResult {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/procedures.md"))?;
    let steps = steps(&page, SESSION)?;
    let cluster = TestCluster::three_nodes().await?;
    let endpoints = cluster.endpoints().join(",");
    let directory = cluster.directory()?.join("session");
    std::fs::create_dir(&directory)?;
    let mut commands = 0;
    for step in steps {
        match step {
            Step::Write { file, text } => std::fs::write(directory.join(file), text)?,
            Step::Run { command, prints } => {
                let printed = run(&command, &directory, &endpoints).await.with_context(|| command.clone())?;
                assert!(
                    comparable(&printed) == comparable(&prints),
                    "$ {command}\nprints\n{printed}\nand not, as the page has it,\n{prints}"
                );
                commands += 1;
            }
        }
    }
    assert!(commands >= 20, "the page has only {commands} commands");
    // Where the session ends, version 2 is active, and tells orders apart by its rule.
    let call = ["stock.reserve", "--key", "shoes", "order10"].join(" ");
    let refused = run(&format!("cirrus proc call {call} 6"), &directory, &endpoints).await?;
    assert!(refused.contains("1 to 5 pieces"), "{refused}");
    assert!(run(&format!("cirrus proc call {call} 5"), &directory, &endpoints).await?.trim() == "17");
    Ok(())
}

#[test]
fn a_page_that_is_not_true_is_noticed() {
    let page = "# T\n\n## A\n```console\n$ no\n```\n## B\ntext\n```lua\n-- a/b.lua\nx()\n```\n```sh\nno\n```\n\n```console\n$ one\n1  2\n\n$ two\n```\n## C\n";
    let run = |command: &str, prints: &str| Step::Run { command: command.into(), prints: prints.into() };
    let write = Step::Write { file: "a/b.lua".into(), text: "-- a/b.lua\nx()\n".into() };
    assert_eq!(steps(page, "B").unwrap(), [write, run("one", "1  2\n\n"), run("two", "")]);
    assert!(steps(page, "D").is_err());
    assert_eq!(comparable("ok  a  0.5 ms"), comparable("ok a 17.0 ms"));
    assert_eq!(comparable("87  2  kv.get  k"), comparable("1 20 kv.get k"));
    assert_eq!(comparable("a_test.lua  5  0  91"), comparable("a_test.lua  5  0  9"));
    assert_eq!(
        comparable("2 active 2026-11-25T17:16:13Z 26da8f61923c"),
        comparable("2 active 2027-01-01T00:00:00Z 000000000000")
    );
    for (a, b) in
        [("28", "27"), ("a_test.lua 5 0 9", "a_test.lua 4 0 9"), ("1 2 kv.get k", "1 2 kv.put k"), ("x", "x\ny")]
    {
        assert_ne!(comparable(a), comparable(b));
    }
}
