//! Writes the good inputs of every target to `FOLDER/TARGET/seedN`, and the targets' names to standard output.

use std::fs;
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "corpus".into()));
    for target in tests::targets::TARGETS {
        let dir = folder.join(target.name);
        fs::create_dir_all(&dir)?;
        for (n, seed) in (target.seeds)().iter().enumerate() {
            fs::write(dir.join(format!("seed{n}")), seed)?;
        }
        println!("{}", target.name);
    }
    Ok(())
}
