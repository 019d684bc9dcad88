//! Until when a request is worth answering.
//!
//! Source: "gRPC over HTTP/2", `grpc-timeout`: 1 to 8 digits, then a unit out of `H M S m u n`.

use std::time::{Duration, Instant};

use cirrus_proto::Failure;
use tonic::metadata::MetadataMap;

/// The header that carries a request's timeout.
const HEADER: &str = "grpc-timeout";

/// What deadlines requests get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadlinePolicy {
    /// For a request that states none.
    pub(crate) default: Duration,
    /// Whatever the request states.
    pub(crate) longest: Duration,
}

impl DeadlinePolicy {
    /// The deadline of a request that arrived at `now`.
    pub(crate) fn deadline(&self, now: Instant, metadata: &MetadataMap) -> Result<Instant, Failure> {
        Ok(self.stated(now, metadata)?.unwrap_or(now + self.default))
    }

    /// The deadline that the request itself states, if it does.
    pub(crate) fn stated(&self, now: Instant, metadata: &MetadataMap) -> Result<Option<Instant>, Failure> {
        let Some(value) = metadata.get(HEADER) else { return Ok(None) };
        let timeout = value.to_str().ok().and_then(parse_timeout).ok_or_else(|| {
            Failure::invalid_field(HEADER, format!("{value:?} is not 1 to 8 digits and one of H, M, S, m, u, n"))
        })?;
        Ok(Some(now + self.within(timeout)))
    }

    /// Gives up a little before the client does, so that the client hears why.
    fn within(&self, timeout: Duration) -> Duration {
        let timeout = timeout.min(self.longest);
        timeout - (timeout / 10).min(Duration::from_millis(5))
    }
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use cirrus_proto::Reason;

    use super::*;

    const POLICY: DeadlinePolicy = DeadlinePolicy { default: Duration::from_secs(5), longest: Duration::from_secs(60) };

    fn timeout(header: &str) -> Result<Duration, Failure> {
        let now = Instant::now();
        let mut metadata = MetadataMap::new();
        metadata.insert(HEADER, header.parse().unwrap());
        POLICY.deadline(now, &metadata).map(|deadline| deadline - now)
    }

    #[test]
    fn every_unit_is_understood() {
        let cases = [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("30S", Duration::from_secs(30)),
            ("250m", Duration::from_millis(250)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("5n", Duration::from_nanos(5)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_timeout(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused_by_name() {
        for text in ["", "S", "5", "5s", "-5S", "+5S", "123456789S", "5 S", "5.0S", "٣S"] {
            assert_eq!(parse_timeout(text), None, "{text}");
        }
        let failure = timeout("soon").unwrap_err();
        assert_eq!(failure.reason, Reason::InvalidField);
        assert_eq!(failure.metadata["field"], HEADER);
    }

    #[test]
    fn a_request_without_a_timeout_gets_the_default() {
        let now = Instant::now();
        assert_eq!(POLICY.deadline(now, &MetadataMap::new()).unwrap(), now + POLICY.default);
        assert_eq!(POLICY.stated(now, &MetadataMap::new()).unwrap(), None);
    }

    #[test]
    fn a_stated_timeout_is_bounded_and_ends_before_the_client_gives_up() {
        assert_eq!(timeout("1S").unwrap(), Duration::from_millis(995));
        assert_eq!(timeout("10m").unwrap(), Duration::from_millis(9));
        assert_eq!(timeout("99999999H").unwrap(), Duration::from_millis(59_995));
    }
}
