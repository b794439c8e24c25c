//! An operator at the status page in Chromium: the forms work in a real browser with its rules for cookies, origins and policies.

use serde_json::{Value, json};

use super::between::Between;
use super::program;
use crate::install;

const TOKEN: &str = "a-token-of-the-operators";

#[tokio::test]
async fn an_operator_signs_in_and_switches_the_primary_in_a_browser() {
    install::debian("chromium", "chromium");
    let between = Between::start_with(|plan| plan.admin(&format!("token = \"{TOKEN}\""))).await;
    let status = between.relay.status().await;
    let shadow = status["upstreams"][1]["name"].as_str().expect("a shadow").to_owned();
    let mut command = program::command("node", "browser/operator.cjs");
    command.env("NODE_PATH", install::browser_modules()).arg(format!("http://{}/", between.relay.admin_address()));
    let said = program::output("an operator with Chromium", {
        command.args([TOKEN, &shadow, "48 h were fine"]);
        command
    })
    .await;
    let said: Value = serde_json::from_str(&said).expect("what the page said");
    assert_eq!(said["buttonsBefore"], 0, "{said}");
    assert_eq!(said["wrong"], "That is not the token of this relay.", "{said}");
    assert!(said["consequences"].to_string().contains("no service restarts"), "{said}");
    assert!(
        said["done"].as_str().expect("a sentence").starts_with(&format!("Done: {shadow} is the primary.")),
        "{said}"
    );
    assert!(said["address"].as_str().expect("an address").ends_with("/?done=switched"), "{said}");
    assert_eq!((&said["readable"], &said["cookiesLeft"]), (&json!(""), &json!(0)), "{said}");
    assert_eq!(said["cookie"], json!({"httpOnly": true, "sameSite": "Strict", "lasts": true}), "{said}");
    assert!(
        said["noNews"].as_str().expect("words").ends_with("the relay does not answer: see whether it runs."),
        "{said}"
    );
    let status = between.relay.status().await;
    let switch = &status["switches"][0];
    assert_eq!((&status["primary"], &switch["to"]), (&json!(shadow), &json!(shadow)));
    assert_eq!((&switch["reason"], &switch["author"]), (&json!("48 h were fine"), &json!("status page, 127.0.0.1")));
    between.relay.finish().await;
}
