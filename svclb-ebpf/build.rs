//! Builds again when the linker changes: cargo does not know that rustc calls it.

fn main() {
    match which::which("bpf-linker") {
        Ok(linker) => println!("cargo:rerun-if-changed={}", linker.display()),
        Err(_) => {
            eprintln!("bpf-linker is missing: run `cargo xtask setup`");
            std::process::exit(1);
        }
    }
}
