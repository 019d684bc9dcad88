//! The thread that has the next segment ready before the writer needs it, and puts freed ones away.
//!
//! It does one thing at a time, each durable before the next: a power cut never leaves a gap between segments.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::segment::{SEGMENT, SPARE, create, list, open, path_of, remove, rename};
use crate::StorageError;
use crate::durable_files::sync_directory;

/// Freed segments kept for use under a new number.
pub(super) const SPARES_MAX: usize = 2;

enum Request {
    Prepare { number: u64 },
    Retire { number: u64, file: Arc<File> },
}

/// The writer's side.
pub(super) struct Preparer {
    requests: Option<Sender<Request>>,
    prepared: Receiver<Result<File, StorageError>>,
    asked: bool,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    pub(super) fn spawn(directory: PathBuf, segment_bytes: u64, spares: VecDeque<u64>) -> Result<Self, StorageError> {
        let (requests, received) = channel();
        let (reply, prepared) = channel();
        let mut shelf = Shelf { directory, segment_bytes, spares, retired: VecDeque::new() };
        let thread = std::thread::Builder::new()
            .name("cirrus-log-files".to_owned())
            .spawn(move || {
                for request in received {
                    match request {
                        // Nobody listens any more if the log is being closed.
                        Request::Prepare { number } => drop(reply.send(shelf.prepare(number))),
                        Request::Retire { number, file } => shelf.retire(number, file),
                    }
                }
            })
            .map_err(|error| StorageError::Failed(format!("start the log's file thread: {error}")))?;
        Ok(Self { requests: Some(requests), prepared, asked: false, thread: Some(thread) })
    }

    /// Asks for the next segment, once.
    pub(super) fn prepare(&mut self, number: u64) {
        if !std::mem::replace(&mut self.asked, true) {
            self.send(Request::Prepare { number });
        }
    }

    /// The next segment; waits for it if it is late.
    pub(super) fn take(&mut self, number: u64) -> Result<File, StorageError> {
        self.prepare(number);
        // If it failed ahead of need, the disk may have room by now.
        self.receive().or_else(|error| {
            tracing::warn!(%error, "the log's next segment is not ready; trying again");
            self.prepare(number);
            self.receive()
        })
    }

    /// Hands over a segment that is not needed any more.
    pub(super) fn retire(&mut self, number: u64, file: Arc<File>) {
        self.send(Request::Retire { number, file });
    }

    fn send(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // It only ends before this does if it panicked, which the next `receive` tells.
            drop(requests.send(request));
        }
    }

    fn receive(&mut self) -> Result<File, StorageError> {
        self.asked = false;
        self.prepared.recv().unwrap_or_else(|_| Err(StorageError::Failed("the log's file thread is gone".to_owned())))
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.requests = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the log's file thread panicked");
        }
    }
}

/// The thread's side.
struct Shelf {
    directory: PathBuf,
    segment_bytes: u64,
    spares: VecDeque<u64>,
    /// Still to be put away, oldest first.
    retired: VecDeque<(u64, Arc<File>)>,
}

impl Shelf {
    fn prepare(&mut self, number: u64) -> Result<File, StorageError> {
        let Some(spare) = self.spares.pop_front() else {
            return create(&self.directory, number, self.segment_bytes);
        };
        let path = path_of(&self.directory, number, SEGMENT);
        rename(&path_of(&self.directory, spare, SPARE), &path)?;
        sync_directory(&self.directory)?;
        open(&path)
    }

    /// A failure is tried again with the next one: what is left behind is only space.
    fn retire(&mut self, number: u64, file: Arc<File>) {
        self.retired.push_back((number, file));
        while let Some((number, file)) = self.retired.pop_front() {
            if let Err(error) = self.put_away(number, &file) {
                tracing::warn!(%error, "a freed segment of the log stays for now");
                self.retired.push_front((number, file));
                return;
            }
        }
    }

    fn put_away(&mut self, number: u64, file: &Arc<File>) -> Result<(), StorageError> {
        let path = path_of(&self.directory, number, SEGMENT);
        let length = file.metadata().map_err(StorageError::file("read the size of", &path))?.len();
        // A reader that still holds the file must find in it what was there.
        let unused = Arc::strong_count(file) == 1;
        if unused && length == self.segment_bytes && self.spares.len() < SPARES_MAX {
            rename(&path, &path_of(&self.directory, number, SPARE))?;
            self.spares.push_back(number);
        } else {
            remove(&path)?;
        }
        sync_directory(&self.directory)
    }
}

/// Keeps usable spares of an earlier run and removes the others.
pub(super) fn keep_spares(directory: &Path, segment_bytes: u64) -> Result<VecDeque<u64>, StorageError> {
    let mut kept = VecDeque::new();
    for number in list(directory, SPARE)? {
        let path = path_of(directory, number, SPARE);
        let length = std::fs::metadata(&path).map_err(StorageError::file("read the size of", &path))?.len();
        if length == segment_bytes && kept.len() < SPARES_MAX {
            kept.push_back(number);
        } else {
            remove(&path)?;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::log::segment::temporary_path;

    const BYTES: u64 = 4096;

    fn segment(directory: &Path, number: u64) -> Arc<File> {
        let file = create(directory, number, BYTES).unwrap();
        file.write_all_at(b"what was there", 0).unwrap();
        Arc::new(file)
    }

    fn spawn(directory: &Path) -> Preparer {
        Preparer::spawn(directory.to_owned(), BYTES, VecDeque::new()).unwrap()
    }

    #[test]
    fn a_file_that_a_reader_holds_is_not_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let held = segment(directory.path(), 1);
        let mut preparer = spawn(directory.path());
        preparer.retire(1, held.clone());
        let next = preparer.take(2).unwrap();
        next.write_all_at(b"something else", 0).unwrap();
        let mut read = [0; 14];
        held.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"what was there");
        assert!(!path_of(directory.path(), 1, SEGMENT).exists());
    }

    #[test]
    fn freed_files_are_used_again_and_few_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut preparer = spawn(directory.path());
        for number in 1..=4 {
            preparer.retire(number, segment(directory.path(), number));
        }
        let next = preparer.take(5).unwrap();
        let mut read = [0; 14];
        next.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"what was there");
        drop(preparer);
        assert_eq!(list(directory.path(), SEGMENT).unwrap(), [5]);
        assert_eq!(list(directory.path(), SPARE).unwrap(), [2]);
    }

    #[test]
    fn what_failed_ahead_of_need_is_tried_again_when_it_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        let obstacle = temporary_path(directory.path());
        std::fs::create_dir(&obstacle).unwrap();
        let mut preparer = spawn(directory.path());
        preparer.prepare(1);
        assert!(preparer.receive().is_err());
        // The writer has not looked yet.
        preparer.prepare(1);
        assert!(preparer.take(1).is_err());
        std::fs::remove_dir(&obstacle).unwrap();
        assert_eq!(preparer.take(1).unwrap().metadata().unwrap().len(), BYTES);
    }
}
