//! Values with types: what procedures take and return.

use bytes::Bytes;

use crate::v1::lua_value::Kind;
use crate::v1::{LuaList, LuaMap, LuaMapEntry, LuaNil, LuaValue};

/// Lists and maps may be nested to this depth. A protobuf message is read to 100 levels; each list is two of them, and
/// each map three.
pub const VALUE_DEPTH_MAX: usize = 24;

impl LuaValue {
    /// Nil.
    pub fn nil() -> Self {
        Kind::Nil(LuaNil {}).into()
    }

    /// How deep lists and maps are nested: 0 for a value that is neither. `None` where a value has no kind, as one
    /// of a newer version of the API.
    pub fn depth(&self) -> Option<usize> {
        match self.kind.as_ref()? {
            Kind::List(list) => depth_above(list.values.iter().map(Some)),
            Kind::Map(map) => depth_above(map.entries.iter().map(|entry| entry.value.as_ref())),
            _ => Some(0),
        }
    }
}

fn depth_above<'a>(mut values: impl Iterator<Item = Option<&'a LuaValue>>) -> Option<usize> {
    let deepest = values.try_fold(0, |deepest: usize, value| Some(deepest.max(value?.depth()?)));
    deepest.map(|depth| depth + 1)
}

impl From<Kind> for LuaValue {
    fn from(kind: Kind) -> Self {
        LuaValue { kind: Some(kind) }
    }
}

macro_rules! from {
    ($($source:ty => $kind:ident;)*) => {
        $(impl From<$source> for LuaValue {
            fn from(value: $source) -> Self {
                Kind::$kind(value.into()).into()
            }
        })*
    };
}

from! {
    bool => Boolean;
    i64 => Int64;
    i32 => Int64;
    u32 => Int64;
    f64 => Double;
    Bytes => Bytes;
    Vec<u8> => Bytes;
    String => Bytes;
    &'static str => Bytes;
}

impl<T: Into<LuaValue>> From<Option<T>> for LuaValue {
    fn from(value: Option<T>) -> Self {
        value.map_or_else(LuaValue::nil, Into::into)
    }
}

impl FromIterator<LuaValue> for LuaValue {
    fn from_iter<I: IntoIterator<Item = LuaValue>>(values: I) -> Self {
        Kind::List(LuaList { values: values.into_iter().collect() }).into()
    }
}

impl<K: Into<Bytes>> FromIterator<(K, LuaValue)> for LuaValue {
    fn from_iter<I: IntoIterator<Item = (K, LuaValue)>>(entries: I) -> Self {
        let entries = entries.into_iter().map(|(key, value)| LuaMapEntry { key: key.into(), value: Some(value) });
        Kind::Map(LuaMap { entries: entries.collect() }).into()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn list(value: LuaValue) -> LuaValue {
        [value].into_iter().collect()
    }

    fn map(value: LuaValue) -> LuaValue {
        [("k", value)].into_iter().collect()
    }

    #[test]
    fn depth_is_that_of_the_deepest() {
        assert_eq!(LuaValue::from(1).depth(), Some(0));
        assert_eq!(LuaValue::nil().depth(), Some(0));
        assert_eq!(list(LuaValue::from(true)).depth(), Some(1));
        let mixed: LuaValue = [LuaValue::from(1.5), map(list("x".into()))].into_iter().collect();
        assert_eq!(mixed.depth(), Some(3));
        assert_eq!(LuaValue::default().depth(), None);
        assert_eq!(map(list(LuaValue::default())).depth(), None);
        let without = Kind::Map(LuaMap { entries: vec![LuaMapEntry { key: Bytes::new(), value: None }] });
        assert_eq!(LuaValue::from(without).depth(), None);
    }

    #[test]
    fn what_is_nested_to_the_limit_can_be_read() {
        let mut value = LuaValue::from(1);
        for _ in 0..VALUE_DEPTH_MAX {
            value = map(value);
        }
        assert_eq!(value.depth(), Some(VALUE_DEPTH_MAX));
        let request = crate::v1::CallRequest { values: vec![value], ..Default::default() };
        let command = crate::internal::v1::Command { kind: Some(crate::internal::v1::command::Kind::Call(request)) };
        let kind = Some(crate::internal::v1::execute_request::Kind::Command(command));
        let request = crate::internal::v1::ExecuteRequest { shard_id: 1, kind };
        assert_eq!(crate::internal::v1::ExecuteRequest::decode(&*request.encode_to_vec()), Ok(request));
    }
}
