//! A database as the file that SQLite takes it for, during one request.

use std::collections::BTreeMap;

use bytes::Bytes;
use cirrus_proto::Failure;

use crate::keys::page_key;
use crate::page;
use crate::running::Reads;

/// What SQLite reads and writes.
#[derive(Debug)]
pub(crate) enum File {
    Pages(Pages),
    /// A whole file, for what changes the size of pages.
    Image(Vec<u8>),
}

/// Stored pages, with those over them that the request wrote.
#[derive(Debug)]
pub(crate) struct Pages {
    /// What the keys of pages begin with.
    prefix: Vec<u8>,
    page_bytes: usize,
    page_count: u32,
    /// Pages up to here are stored, and not cut off since.
    stored_count: u32,
    written: BTreeMap<u32, Box<[u8]>>,
    /// The first pages that were read, as they are stored: SQLite looks at a file's first page three times as it opens
    /// it, and what is written is held against what was there.
    stored: BTreeMap<u32, Bytes>,
    /// Why a page could not be read; SQLite knows only that it could not.
    fault: Option<Failure>,
}

/// What a request left of a database.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) page_count: u32,
    /// Every page past those that stay stored, and some of these; not all of them differ from what is stored.
    pub(crate) pages: BTreeMap<u32, Box<[u8]>>,
    /// Some pages as they were stored before.
    pub(crate) stored: BTreeMap<u32, Bytes>,
}

/// Stored pages that a request keeps, at most.
const STORED_KEPT: usize = 16;

/// The file does not end on a page's end, or does not hold what it must: an I/O error, for SQLite.
#[derive(Debug)]
pub(crate) struct Unreadable;

impl File {
    pub(crate) fn pages(prefix: Vec<u8>, page_bytes: usize, page_count: u32) -> File {
        let (stored_count, written, stored) = (page_count, BTreeMap::new(), BTreeMap::new());
        File::Pages(Pages { prefix, page_bytes, page_count, stored_count, written, stored, fault: None })
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            File::Pages(pages) => pages.page_count as usize * pages.page_bytes,
            File::Image(image) => image.len(),
        }
    }

    /// Fills `buffer` from `offset` on, and returns how much of it lies in the file.
    pub(crate) fn read(&mut self, reads: &dyn Reads, offset: usize, buffer: &mut [u8]) -> Result<usize, Unreadable> {
        let length = buffer.len().min(self.bytes().saturating_sub(offset));
        let buffer = &mut buffer[..length];
        match self {
            File::Image(image) => buffer.copy_from_slice(&image[offset..offset + length]),
            File::Pages(pages) => pages.read(reads, offset, buffer)?,
        }
        Ok(length)
    }

    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), Unreadable> {
        match self {
            File::Image(image) => {
                let end = offset.checked_add(data.len()).ok_or(Unreadable)?;
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[offset..end].copy_from_slice(data);
                Ok(())
            }
            File::Pages(pages) => pages.write(offset, data),
        }
    }

    pub(crate) fn truncate(&mut self, bytes: usize) -> Result<(), Unreadable> {
        match self {
            File::Image(image) => image.truncate(bytes),
            File::Pages(pages) => {
                if !bytes.is_multiple_of(pages.page_bytes) {
                    return Err(Unreadable);
                }
                pages.page_count = pages.page_count.min((bytes / pages.page_bytes) as u32);
                pages.stored_count = pages.stored_count.min(pages.page_count);
                pages.written.split_off(&(pages.page_count + 1));
            }
        }
        Ok(())
    }

    /// Why a read failed.
    pub(crate) fn take_fault(&mut self) -> Option<Failure> {
        match self {
            File::Pages(pages) => pages.fault.take(),
            File::Image(_) => None,
        }
    }
}

impl Pages {
    fn read(&mut self, reads: &dyn Reads, offset: usize, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let mut offset = offset;
        let mut buffer = buffer;
        while !buffer.is_empty() {
            let number = (offset / self.page_bytes) as u32 + 1;
            let within = offset % self.page_bytes;
            let (part, rest) = buffer.split_at_mut(buffer.len().min(self.page_bytes - within));
            if part.len() == self.page_bytes {
                self.read_page(reads, number, part)?;
            } else {
                let mut page = vec![0; self.page_bytes];
                self.read_page(reads, number, &mut page)?;
                part.copy_from_slice(&page[within..within + part.len()]);
            }
            offset += part.len();
            buffer = rest;
        }
        Ok(())
    }

    fn read_page(&mut self, reads: &dyn Reads, number: u32, page: &mut [u8]) -> Result<(), Unreadable> {
        if let Some(written) = self.written.get(&number) {
            page.copy_from_slice(written);
            return Ok(());
        }
        // SQLite may write pages out of order, and reads what it left out as zeros.
        if number > self.stored_count {
            page.fill(0);
            return Ok(());
        }
        if let Some(stored) = self.stored.get(&number)
            && page::decode(stored, page)
        {
            return Ok(());
        }
        let read = match reads.get(&page_key(&self.prefix, number)) {
            Ok(Some(stored)) if page::decode(&stored, page) => {
                if self.stored.len() < STORED_KEPT {
                    self.stored.insert(number, stored);
                }
                return Ok(());
            }
            Ok(Some(_)) => Failure::internal(format!("page {number} of a database is not stored as a page")),
            Ok(None) => Failure::internal(format!("page {number} of a database is not stored")),
            Err(failure) => failure,
        };
        self.fault.get_or_insert(read);
        Err(Unreadable)
    }

    fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), Unreadable> {
        if !offset.is_multiple_of(self.page_bytes) || !data.len().is_multiple_of(self.page_bytes) {
            return Err(Unreadable);
        }
        let first = u32::try_from(offset / self.page_bytes).map_err(|_| Unreadable)?;
        for (number, page) in (first + 1..).zip(data.chunks_exact(self.page_bytes)) {
            match self.written.get_mut(&number) {
                Some(written) => written.copy_from_slice(page),
                None => drop(self.written.insert(number, page.into())),
            }
            self.page_count = self.page_count.max(number);
        }
        Ok(())
    }

    /// What a file of this size consists of that is not stored.
    pub(crate) fn into_written(mut self) -> Written {
        for number in self.stored_count + 1..=self.page_count {
            self.written.entry(number).or_insert_with(|| vec![0; self.page_bytes].into());
        }
        Written { page_count: self.page_count, pages: self.written, stored: self.stored }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use bytes::Bytes;
    use cirrus_engine::Visit;

    use super::*;

    /// Stored pages of 4 bytes, each its number four times; whose reads are counted.
    struct Stored(u32, RefCell<Vec<u32>>);

    impl Reads for Stored {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
            let number = u32::from_be_bytes(key.strip_prefix(b"p").unwrap().try_into().unwrap());
            self.1.borrow_mut().push(number);
            Ok((number <= self.0).then(|| page::encode(&[number as u8; 4])))
        }

        fn scan(&self, _: &[u8], _: &[u8], _: Visit<'_>) -> Result<(), Failure> {
            unreachable!("a file reads by page")
        }
    }

    fn read(file: &mut File, stored: &Stored, offset: usize, length: usize) -> Vec<u8> {
        let mut buffer = vec![9; length];
        let read = file.read(stored, offset, &mut buffer).unwrap();
        buffer.truncate(read);
        buffer
    }

    #[test]
    fn pages_are_read_where_they_lie_and_written_over_what_is_stored() {
        let stored = Stored(3, RefCell::default());
        let mut file = File::pages(b"p".to_vec(), 4, 3);
        assert_eq!(read(&mut file, &stored, 4, 4), [2; 4]);
        assert_eq!(read(&mut file, &stored, 2, 4), [1, 1, 2, 2]);
        assert_eq!(read(&mut file, &stored, 10, 9), [3, 3], "up to the end");
        assert!(read(&mut file, &stored, 100, 4).is_empty());

        file.write(4, &[7; 4]).unwrap();
        file.write(16, &[8; 4]).unwrap();
        assert_eq!(read(&mut file, &stored, 0, 20), [[1; 4], [7; 4], [3; 4], [0; 4], [8; 4]].concat());
        assert!(file.write(2, &[0; 4]).is_err());
        assert!(file.write(4, &[0; 3]).is_err());

        file.truncate(4).unwrap();
        file.write(8, &[6; 4]).unwrap();
        assert_eq!(read(&mut file, &stored, 0, 12), [[1; 4], [0; 4], [6; 4]].concat(), "what was cut off is gone");
        let File::Pages(pages) = file else { unreachable!() };
        let written = pages.into_written();
        assert_eq!(written.page_count, 3);
        assert_eq!(written.pages.into_iter().collect::<Vec<_>>(), [(2, [0; 4].into()), (3, [6; 4].into())]);
    }

    #[test]
    fn the_first_pages_are_fetched_once() {
        let stored = Stored(40, RefCell::default());
        let mut file = File::pages(b"p".to_vec(), 4, 40);
        for _ in 0..3 {
            read(&mut file, &stored, 0, 3);
            read(&mut file, &stored, 0, 4);
        }
        assert_eq!(*stored.1.borrow(), [1]);
        read(&mut file, &stored, 0, 160);
        assert_eq!(stored.1.borrow().len(), 40);
        file.write(0, &[7; 4]).unwrap();
        let File::Pages(pages) = file else { unreachable!() };
        let written = pages.into_written();
        assert_eq!((written.stored.len(), &written.stored[&1]), (STORED_KEPT, &page::encode(&[1; 4])));
    }

    #[test]
    fn a_page_that_is_missing_is_a_fault_of_the_node() {
        let stored = Stored(1, RefCell::default());
        let mut file = File::pages(b"p".to_vec(), 4, 2);
        assert!(file.read(&stored, 4, &mut [0; 4]).is_err());
        assert_eq!(file.take_fault().unwrap().message, "page 2 of a database is not stored");
        assert_eq!(file.take_fault(), None);
    }

    #[test]
    fn an_image_is_read_and_written_anywhere() {
        let stored = Stored(0, RefCell::default());
        let mut file = File::Image(vec![1, 2, 3]);
        file.write(5, &[6]).unwrap();
        assert_eq!(read(&mut file, &stored, 1, 9), [2, 3, 0, 0, 6]);
        file.truncate(2).unwrap();
        assert_eq!(file.bytes(), 2);
    }
}
