//! How a test ends.

use std::fmt;

/// What a test that uses `?` returns. The `?` of an error panics where it stands, so that a
/// [`TestCluster`](crate::cluster::TestCluster) that is dropped on the way out can tell that the test failed.
pub type TestResult = Result<(), Failed>;

/// Never exists: making one panics.
pub enum Failed {}

impl fmt::Debug for Failed {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failed {
    #[track_caller]
    fn from(error: E) -> Failed {
        panic!("{:#}", error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails() -> TestResult {
        Err(std::io::Error::other("on purpose"))?;
        Ok(())
    }

    #[test]
    #[should_panic(expected = "on purpose")]
    fn an_error_panics() {
        let _ = fails();
    }
}
