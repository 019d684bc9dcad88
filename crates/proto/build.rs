//! Compiles `proto/` with protox, so that no machine needs protoc.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let files = [
        "cirrus/v1/common.proto",
        "cirrus/v1/key_value.proto",
        "cirrus/v1/procedures.proto",
        "cirrus/v1/cluster.proto",
        "cirrus/v1/sql.proto",
        "cirrus/internal/v1/replication.proto",
        "cirrus/internal/v1/node.proto",
        "cirrus/internal/v1/log.proto",
    ];
    let descriptors = protox::compile(files, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Reflection serves the public API only.
    let public = protox::compile(&files[..5], [&root])?;
    std::fs::write(out.join("cirrus_v1.bin"), public.encode_to_vec())?;
    tonic_prost_build::configure().codec_path("crate::codec::SizedCodec").bytes(".").compile_fds(descriptors)?;
    Ok(())
}
