//! `HEALTHCHECK`: its flags and its command.

use crate::{
    config::Healthcheck,
    instruction::{Command, Flag, command, flags, no_such_flag, value},
};

/// Reads what follows the keyword.
pub(crate) fn parse(rest: &str, escape: char) -> Result<Healthcheck, String> {
    let (flags, rest) = flags(rest, escape);
    let (word, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let rest = rest.trim_start();
    let mut check = Healthcheck::default();
    match word.to_ascii_uppercase().as_str() {
        "NONE" if flags.is_empty() && rest.is_empty() => check.test = vec!["NONE".to_owned()],
        "CMD" if !rest.is_empty() => check.test = test(rest),
        _ => return Err("write HEALTHCHECK CMD COMMAND, or HEALTHCHECK NONE".to_owned()),
    }
    for flag in &flags {
        match flag.0.as_str() {
            "interval" => check.interval = nanoseconds(flag)?,
            "timeout" => check.timeout = nanoseconds(flag)?,
            "start-period" => check.start_period = nanoseconds(flag)?,
            "start-interval" => check.start_interval = nanoseconds(flag)?,
            "retries" => {
                let text = value(flag)?;
                let number = text.parse();
                check.retries = number.map_err(|_| format!("--retries={text} is no number"))?;
            }
            name => {
                let known = "--interval, --timeout, --start-period, --start-interval and --retries";
                return Err(no_such_flag(name, known));
            }
        }
    }
    Ok(check)
}

fn test(rest: &str) -> Vec<String> {
    match command(rest) {
        Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text],
        Command::Exec(argv) => [vec!["CMD".to_owned()], argv].concat(),
    }
}

fn nanoseconds(flag: &Flag) -> Result<u64, String> {
    let text = value(flag)?;
    let bad = || {
        format!(
            "--{}={text} is no time; write it as in 30s or 1m30s",
            flag.0
        )
    };
    let duration = humantime::parse_duration(&text).map_err(|_| bad())?;
    u64::try_from(duration.as_nanos()).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_has_its_command_and_times() {
        let check = parse("--interval=1m30s --retries=3 CMD curl -f x || exit 1", '\\').unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "curl -f x || exit 1"]);
        assert_eq!((check.interval, check.retries), (90_000_000_000, 3));
        assert_eq!(parse("CMD [\"a\"]", '\\').unwrap().test, ["CMD", "a"]);
        assert_eq!(parse("none", '\\').unwrap().test, ["NONE"]);
    }

    #[test]
    fn what_is_no_check_is_refused() {
        for bad in [
            "x",
            "CMD",
            "NONE x",
            "--interval=x CMD a",
            "--retries=-1 CMD a",
            "--x=1 CMD a",
        ] {
            assert!(parse(bad, '\\').is_err(), "{bad}");
        }
    }
}
