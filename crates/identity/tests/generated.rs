//! `src/source/cri/generated.rs` is what prost makes of `proto/cri.proto`; `UPDATE=1` writes it anew.

use std::path::Path;

#[test]
fn the_generated_file_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let set = protox::compile([root.join("proto/cri.proto")], [root.join("proto")]).unwrap();
    let module = prost_build::Module::from_protobuf_package_name("runtime.v1");
    let mut config = prost_build::Config::new();
    let requests = set.file.into_iter().map(|file| (module.clone(), file)).collect();
    let mut made = config.generate(requests).unwrap();
    let made = made.remove(&module).unwrap();
    let file = root.join("src/source/cri/generated.rs");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, made).unwrap();
    } else {
        let have = std::fs::read_to_string(&file).unwrap();
        assert!(have == made, "stale: UPDATE=1 cargo test -p identity --test generated");
    }
}
