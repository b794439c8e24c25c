//! How much of a file and of its problems is shown.

use super::{GOOD, read};
use crate::config::diagnostics::{Form, LOGGED};

#[test]
fn a_long_line_is_shown_only_around_the_problem() {
    let (values, letters) = ("\"value\", ".repeat(10_000), "é".repeat(10_000));
    for line in [
        format!("project = [{values}]"),
        format!("project = {{ a = \"{letters}\" }}"),
        format!("project = 5 # {letters}"),
        format!("project = 5 #{letters}"),
    ] {
        let told = read(&format!("{GOOD}[canary]\n{line}\n")).unwrap_err().render(Form::Plain);
        assert!(told.contains("canary.project: expected a string") && told.contains("project = "), "{told}");
        assert!(told.len() < 2_000, "{} bytes", told.len());
    }
}

#[test]
fn the_log_shows_the_first_problems_and_the_number_of_others() {
    let wrong: String = (0..50).map(|n| format!("wrong{n} = 1\n")).collect();
    let problems = read(&format!("{wrong}{GOOD}")).unwrap_err();
    let told = problems.render(Form::Log);
    assert!(told.contains("wrong19:") && !told.contains("wrong20:"), "{told}");
    assert!(told.contains(&format!("... and {} more, which `switchyard check` shows", 50 - LOGGED)), "{told}");
    assert!(told.ends_with("50 problems in config.toml"), "{told}");
    assert!(problems.render(Form::Plain).contains("wrong49:"), "a check shows all");
}
