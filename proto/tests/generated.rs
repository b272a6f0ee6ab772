//! The committed Rust under `src/gen/` is what the `.proto` files say.
//!
//! `REGENERATE=1 cargo test -p tunnel-proto --test generated` writes it anew. No
//! `protoc` is needed: protox compiles the descriptions.

use std::path::Path;

#[test]
fn committed_code_is_what_the_descriptions_generate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(["konnectivity.proto", "tunnel.proto"], [root.join("proto")]).unwrap();
    prost_build::Config::new()
        .bytes(["."])
        .format(false)
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .unwrap();

    for name in ["konnectivity.rs", "tunnel.rs"] {
        let expected = std::fs::read_to_string(fresh.path().join(name)).unwrap();
        let committed = root.join("src/gen").join(name);
        if std::env::var_os("REGENERATE").is_some() {
            std::fs::write(&committed, &expected).unwrap();
        }
        let actual = std::fs::read_to_string(&committed).unwrap();
        assert!(actual == expected, "{} is stale: run this test with REGENERATE=1", committed.display());
    }
}
