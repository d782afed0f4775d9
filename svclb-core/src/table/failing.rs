//! A table that fails on request.

use std::io;

use super::{Dump, Key, Row, Table, TableError};

/// Wraps a table and fails a window of its operations, without doing them.
#[derive(Debug)]
pub struct Failing<T> {
    /// The table underneath.
    pub inner: T,
    /// How many writes and removals were asked for so far.
    pub operations: usize,
    fails_from: usize,
    fails_until: usize,
}

impl<T> Failing<T> {
    /// Fails nothing yet.
    pub fn new(inner: T) -> Self {
        Self { inner, operations: 0, fails_from: usize::MAX, fails_until: usize::MAX }
    }

    /// Fails the next operation after `skip` of them, and `count` in all.
    pub fn fail(&mut self, skip: usize, count: usize) {
        self.fails_from = self.operations + skip;
        self.fails_until = self.fails_from.saturating_add(count);
    }

    fn counted(&mut self) -> Result<(), TableError> {
        let number = self.operations;
        self.operations += 1;
        if (self.fails_from..self.fails_until).contains(&number) {
            let source = io::Error::from(io::ErrorKind::OutOfMemory);
            return Err(TableError::System { map: "a failing table", source });
        }
        Ok(())
    }
}

impl<T: Table> Table for Failing<T> {
    fn load(&mut self) -> Result<Dump, TableError> {
        self.inner.load()
    }

    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        self.counted()?;
        self.inner.put(row)
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        self.counted()?;
        self.inner.remove(key)
    }
}
