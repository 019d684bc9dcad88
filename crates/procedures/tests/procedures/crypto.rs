//! `crypto.*` and `uuid`.

use std::time::{Duration, Instant};

use cirrus_proto::Reason;
use cirrus_proto::limits::Limits;

use crate::shard::{Shard, failed};

#[test]
fn known_answers() {
    // FIPS 180-2 and RFC 1321, 4231, 4648; the CRC's check value.
    let cases = [
        ("sha256('')", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("sha256('abc')", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("sha256(('a'):rep(1000000))", "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ("sha1('abc')", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("sha1(('a'):rep(1000000))", "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
        ("md5('')", "d41d8cd98f00b204e9800998ecf8427e"),
        ("md5('message digest')", "f96b697d7cb7938d525a2f31aaf161d0"),
        ("md5(12)", "c20ad4d76fe97759aa27a0c99bff6710"),
        (
            "sha512('abc')",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
        (
            "hmac_sha256('Jefe', 'what do ya want for nothing?')",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            "hmac_sha256(('\\xaa'):rep(131), 'Test Using Larger Than Block-Size Key - Hash Key First')",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        ("hmac_sha256('', '')", "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"),
        ("crc32('123456789')", "3421780262"),
        ("crc32('')", "0"),
        ("base64_encode('')", ""),
        ("base64_encode('f')", "Zg=="),
        ("base64_encode('foobar')", "Zm9vYmFy"),
        ("base64_encode('\\251\\255')", "+/8="),
        ("base64_decode('Zm9vYg==')", "foob"),
        ("base64_decode('')", ""),
        ("hex_encode('\\0\\255a')", "00ff61"),
        ("hex_decode('666F6f')", "foo"),
        ("hex_decode('')", ""),
        ("hex_decode(crypto.hex_encode(('ab'):rep(100000))):sub(199999)", "ab"),
        ("base64_decode(crypto.base64_encode(('ab'):rep(100000))):sub(199999)", "ab"),
    ];
    let mut shard = Shard::new();
    for (call, expected) in cases {
        assert_eq!(shard.run(&format!("return crypto.{call}")).as_deref(), Ok(expected), "{call}");
    }
}

#[test]
fn uuids_are_random_and_well_formed() {
    let mut shard = Shard::new();
    let body = "
        local seen = {}
        math.randomseed(1)
        for i = 1, 1000 do
            local id = uuid()
            assert(id:match('^%x%x%x%x%x%x%x%x%-%x%x%x%x%-4%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$'), id)
            assert(not seen[id])
            seen[id] = true
        end
        return uuid()";
    assert_ne!(shard.run(body).unwrap(), shard.run(body).unwrap());
    assert_eq!(failed(shard.run("uuid(1)")).1, "lib:2: uuid: expected 0 arguments, got 1");
}

#[test]
fn what_cannot_be_decoded_is_an_error() {
    let cases = [
        ("base64_decode('Zg')", "base64_decode: not base64: Invalid padding"),
        ("base64_decode('Zg=')", "base64_decode: not base64: Invalid padding"),
        ("base64_decode('Zh==')", "base64_decode: not base64: Invalid last symbol 104, offset 1."),
        ("base64_decode('Zm9v Ym')", "base64_decode: not base64: Invalid symbol 32, offset 4."),
        ("base64_decode('Zg==Zg==')", "base64_decode: not base64: Invalid symbol 61, offset 2."),
        ("base64_decode('+/-_')", "base64_decode: not base64: Invalid symbol 45, offset 2."),
        ("base64_decode('\\0\\255')", "base64_decode: not base64: Invalid symbol 0, offset 0."),
        ("hex_decode('abc')", "hex_decode: not hex: 3 digits, an odd number"),
        ("hex_decode('ab0g')", "hex_decode: not hex: byte 4 is no digit"),
        ("hex_decode('ab 0')", "hex_decode: not hex: byte 3 is no digit"),
        ("hex_decode(('00'):rep(100000) .. 'xx')", "hex_decode: not hex: byte 200001 is no digit"),
        ("hex_decode(('xx'):rep(100000))", "hex_decode: not hex: byte 1 is no digit"),
        ("sha256()", "sha256: expected 1 argument, got 0"),
        ("sha256(nil)", "sha256: the argument must be a string or a number, got nil"),
        ("hmac_sha256('key')", "hmac_sha256: expected 2 arguments, got 1"),
        ("hmac_sha256({}, '')", "hmac_sha256: key must be a string or a number, got table"),
    ];
    let mut shard = Shard::new();
    for (call, expected) in cases {
        let outcome = shard.run(&format!("return crypto.{call}"));
        assert_eq!(failed(outcome), (Reason::ProcedureFailed, format!("lib:2: {expected}")), "{call}");
    }
}

#[test]
fn much_input_is_bounded_by_time_and_memory() {
    let limits = Limits { call_cpu_ms: 20, ..Limits::DEFAULT };
    let names =
        ["sha256", "sha512", "sha1", "md5", "crc32", "base64_encode", "base64_decode", "hex_encode", "hex_decode"];
    for name in names {
        let mut shard = Shard::with_limits(limits);
        let start = Instant::now();
        let body = format!("local s = ('0'):rep(20000000) while true do pcall(crypto.{name}, s) end");
        let failure = shard.run(&body).unwrap_err();
        assert!(matches!(failure.reason, Reason::CallTimeout | Reason::CallMemory), "{name}: {failure}");
        assert!(start.elapsed() < Duration::from_secs(5), "{name}: {:?}", start.elapsed());
    }
    let mut shard = Shard::with_limits(Limits { call_cpu_ms: 20_000, ..Limits::DEFAULT });
    let body = "return crypto.hex_encode(('x'):rep(2^25))";
    assert_eq!(shard.run(body).unwrap_err().reason, Reason::CallMemory);
    assert_eq!(shard.run("return #crypto.sha256(('x'):rep(2^25))").unwrap(), "64");
}
