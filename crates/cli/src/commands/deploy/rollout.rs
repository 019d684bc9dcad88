//! Storing and activating what a plan has, and undoing it where it fails.

use std::collections::BTreeMap;

use cirrus_client::v1::{
    ActivateLibraryRequest, Library, LibraryActivation, LibraryPin, ListLibraryVersionsResponse,
    RollbackLibraryRequest, UploadLibraryRequest, UploadLibraryResponse,
};
use cirrus_client::{Client, ClientError};

use super::active_version;
use super::plan::{Change, Planned};
use crate::failure::CommandError;

/// What a rollout asks of a cluster.
pub(super) trait Registry {
    async fn upload(&self, request: UploadLibraryRequest) -> Result<UploadLibraryResponse, ClientError>;
    async fn activate(&self, request: ActivateLibraryRequest) -> Result<LibraryActivation, ClientError>;
    async fn rollback(&self, request: RollbackLibraryRequest) -> Result<LibraryActivation, ClientError>;
    async fn versions(&self, name: &str) -> Result<ListLibraryVersionsResponse, ClientError>;
    /// Version 0: the library.
    async fn delete(&self, name: &str, version: u64) -> Result<bool, ClientError>;
}

impl Registry for Client {
    async fn upload(&self, request: UploadLibraryRequest) -> Result<UploadLibraryResponse, ClientError> {
        self.upload_library_with(request).await
    }

    async fn activate(&self, request: ActivateLibraryRequest) -> Result<LibraryActivation, ClientError> {
        Ok(self.activate_library(request).await?.activation.unwrap_or_default())
    }

    async fn rollback(&self, request: RollbackLibraryRequest) -> Result<LibraryActivation, ClientError> {
        Ok(self.rollback_library(request).await?.activation.unwrap_or_default())
    }

    async fn versions(&self, name: &str) -> Result<ListLibraryVersionsResponse, ClientError> {
        self.list_library_versions(name).await
    }

    async fn delete(&self, name: &str, version: u64) -> Result<bool, ClientError> {
        self.delete_library(name, version).await
    }
}

/// A version that was stored, and is active once the rollout has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Deployed {
    pub(super) name: String,
    /// `None`: the library is new, and its first version active since it was stored.
    pub(super) was: Option<u64>,
    pub(super) version: u64,
    pub(super) change: Change,
    /// The libraries that it requires without naming a version.
    pub(super) requires: Vec<String>,
}

impl Deployed {
    fn pinned(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// A rollout that failed.
#[derive(Debug)]
pub(super) struct Aborted {
    /// What failed, such as "activating stock@3".
    step: String,
    error: CommandError,
    /// What was undone, in words.
    undone: Vec<String>,
    /// What was not, with what is to be done about it.
    left: Vec<String>,
}

impl From<Aborted> for CommandError {
    fn from(aborted: Aborted) -> Self {
        let Aborted { step, error, undone, left } = aborted;
        let undone_lines = undone.iter().map(|line| format!("\n  undone: {line}"));
        let left_lines = left.iter().map(|line| format!("\n  not undone: {line}"));
        let mut told: String = undone_lines.chain(left_lines).collect();
        if told.is_empty() {
            told.push_str("\n  nothing was changed");
        }
        error
            .map_message(|message| format!("{step}: {message}{told}"))
            .with("step", step)
            .with("undone", undone.join("; "))
            .with("not_undone", left.join("; "))
    }
}

/// Stores what changed, each library behind those that it requires, and then activates it.
pub(super) async fn roll_out(
    registry: &impl Registry,
    plan: &[Planned],
    active: &[Library],
    author: &str,
) -> Result<Vec<Deployed>, Aborted> {
    let mut stored: Vec<Deployed> = Vec::new();
    for library in plan.iter().filter(|library| library.change != Change::None) {
        let step = || format!("storing {}", library.name);
        match store(registry, library, &stored, active, author).await {
            Ok(deployed) => stored.push(deployed),
            Err((error, deployed)) => {
                let mut left = Vec::new();
                if error.is_outcome_unknown() {
                    left.push(format!("whether {0} was stored is not known: cirrus proc versions {0}", library.name));
                }
                stored.extend(deployed);
                return Err(abort(registry, &stored, step(), error, left, author).await);
            }
        }
    }
    for deployed in &stored {
        if deployed.was.is_none() {
            continue;
        }
        let request = ActivateLibraryRequest {
            name: deployed.name.clone(),
            version: deployed.version,
            activated_by: author.to_owned(),
            ..Default::default()
        };
        if let Err(error) = registry.activate(request).await {
            let step = format!("activating {}", deployed.pinned());
            return Err(abort(registry, &stored, step, error.into(), Vec::new(), author).await);
        }
    }
    Ok(stored)
}

/// Stores one version. A failure has the version with it where one was stored all the same.
async fn store(
    registry: &impl Registry,
    library: &Planned,
    stored: &[Deployed],
    active: &[Library],
    author: &str,
) -> Result<Deployed, (CommandError, Option<Deployed>)> {
    let pins: BTreeMap<&str, u64> = library
        .requires
        .iter()
        .filter_map(|name| {
            let just_stored = stored.iter().find(|deployed| deployed.name == *name).map(|deployed| deployed.version);
            Some((name.as_str(), just_stored.or_else(|| active_version(active, name))?))
        })
        .collect();
    let request = UploadLibraryRequest {
        name: library.name.clone(),
        source: library.source.clone(),
        stage_only: true,
        uploaded_by: author.to_owned(),
        pins: pins.iter().map(|(&name, &version)| LibraryPin { name: name.to_owned(), version }).collect(),
        request_id: None,
    };
    let answer = registry.upload(request).await.map_err(|error| (error.into(), None))?;
    let (header, activation) = (answer.library.unwrap_or_default(), answer.activation.unwrap_or_default());
    let deployed = Deployed {
        name: library.name.clone(),
        // The first version of a library is active at once.
        was: Some(activation.active_version).filter(|&version| version != header.version),
        version: header.version,
        change: library.change.clone(),
        requires: library.requires.clone(),
    };
    let pinned = |name: &str| header.requires.iter().find(|pin| pin.written == name).map(|pin| pin.version);
    match pins.iter().find(|(name, version)| pinned(name) != Some(**version)) {
        None => Ok(deployed),
        Some((name, version)) => {
            let problem = format!("the cluster did not pin {name}@{version}: its nodes are of an earlier version");
            Err((CommandError::local(problem), Some(deployed)))
        }
    }
}

async fn abort(
    registry: &impl Registry,
    stored: &[Deployed],
    step: String,
    error: CommandError,
    mut left: Vec<String>,
    author: &str,
) -> Aborted {
    let mut undone = Vec::new();
    // What requires another goes first, so that nothing requires what is removed.
    for deployed in stored.iter().rev() {
        match undo(registry, deployed, author).await {
            Ok(done) => undone.push(done),
            Err(problem) => left.push(problem),
        }
    }
    Aborted { step, error, undone, left }
}

/// Makes calls run what they ran before, and removes the version. It says what it did, or what is to be done.
async fn undo(registry: &impl Registry, deployed: &Deployed, author: &str) -> Result<String, String> {
    let (name, pinned) = (&deployed.name, deployed.pinned());
    let failed = |error: ClientError, command: String| format!("{pinned} ({}): {command}", error.message);
    let listed = registry
        .versions(name)
        .await
        .map_err(|error| failed(error, format!("look at it with cirrus proc versions {name}")))?;
    let activation = listed.activation.unwrap_or_default();
    let Some(was) = deployed.was else {
        if listed.versions.iter().any(|version| version.version != deployed.version) {
            return Err(format!("{name} is new, and somebody else has stored a version of it since"));
        }
        let command = || format!("cirrus proc delete {name}");
        return match registry.delete(name, 0).await {
            Ok(_) => Ok(format!("{name}, which is new, was removed")),
            Err(error) => Err(failed(error, command())),
        };
    };
    let mut done = format!("{pinned} was removed; calls run version {was} as before");
    if activation.active_version == deployed.version {
        let request = RollbackLibraryRequest { name: name.clone(), activated_by: author.to_owned(), request_id: None };
        let command = || format!("cirrus proc rollback {name}, then cirrus proc delete {pinned}");
        let now = registry.rollback(request).await.map_err(|error| failed(error, command()))?.active_version;
        done = format!("{pinned} was rolled back and removed; calls run version {now} again");
    } else if activation.active_version != was {
        done = format!("{pinned} was removed; calls run version {}, by somebody else", activation.active_version);
    }
    match registry.delete(name, deployed.version).await {
        Ok(_) => Ok(done),
        Err(error) => Err(failed(error, format!("cirrus proc delete {pinned}"))),
    }
}

/// The commands that undo a rollout which succeeded, in their order.
pub(super) fn commands_to_undo(deployed: &[Deployed]) -> Vec<String> {
    let is_new = |name: &String| deployed.iter().any(|other| other.name == *name && other.was.is_none());
    let mut commands = Vec::new();
    for library in deployed.iter().rev() {
        if library.was.is_none() {
            commands.push(format!("cirrus proc delete {}", library.name));
            continue;
        }
        commands.push(format!("cirrus proc rollback {}", library.name));
        // What it requires cannot be removed before it.
        if library.requires.iter().any(is_new) {
            commands.push(format!("cirrus proc delete {}", library.pinned()));
        }
    }
    commands
}

#[cfg(test)]
mod tests;
