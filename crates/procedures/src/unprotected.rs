//! Allocating from outside of Lua without a protected call for each object.

use mlua::Lua;

/// What is allocated besides the objects themselves: Luau's table of strings doubles with their number.
const MARGIN_BYTES: usize = 4 * 1024 * 1024;

/// Runs `build`, which makes objects of about so many bytes in all. Under a memory limit mlua creates each in a protected
/// call, which costs more than most objects do: where they fit for certain, the limit is lifted meanwhile.
pub(crate) fn unprotected<T>(lua: &Lua, bytes: usize, build: impl FnOnce() -> mlua::Result<T>) -> mlua::Result<T> {
    let limit = lua.set_memory_limit(0)?;
    if limit != 0 && lua.used_memory() + bytes + MARGIN_BYTES >= limit {
        lua.set_memory_limit(limit)?;
        return build();
    }
    let built = build();
    lua.set_memory_limit(limit)?;
    built
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_limit_holds_for_what_does_not_fit_and_stays() {
        let lua = Lua::new();
        let limit = lua.used_memory() + 2 * MARGIN_BYTES;
        lua.set_memory_limit(limit).unwrap();
        let make = |bytes: usize| unprotected(&lua, bytes, || lua.create_string(vec![b'x'; bytes]));
        assert!(make(1000).is_ok());
        assert!(matches!(make(3 * MARGIN_BYTES), Err(mlua::Error::MemoryError(_))));
        assert_eq!(lua.set_memory_limit(0).unwrap(), limit);
    }
}
