fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    let tb = testbed::announce("test", &testbed::bin_dir())?;
    if tb.booted().is_some() {
        eprintln!("{:?}", tb.status());
    }
    Ok(testbed::Command::new(std::env::args().skip(1))
        .run(&tb)?
        .into())
}
