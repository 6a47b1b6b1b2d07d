//! What a browser makes of it, in a real one: which pages may call, what they may read, and what the documentation looks like.
//!
//! Needs Chromium, which `scripts/setup` installs; without it these tests fail.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::response::Html;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::command::{Pgw, Serving, client};

/// A Chromium with a profile of its own. Killed when dropped, and its profile with it.
struct Browser {
    child: Child,
    profile: PathBuf,
}

impl Browser {
    fn open(args: &[&str], url: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let profile = format!("pgw-browser-{}-{number}", std::process::id());
        let profile = std::env::temp_dir().join(profile);
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let child = names.iter().find_map(|name| {
            Command::new(name)
                // What it is not for: it reads two pages of ours. The superuser of a container has no sandbox to give.
                .args([
                    "--headless=new",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-dev-shm-usage",
                ])
                .args(["--no-first-run", "--no-proxy-server", "--disable-background-networking"])
                .arg(format!("--user-data-dir={}", profile.display()))
                .args(args)
                .arg(url)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .ok()
        });
        let child = child.expect("Chromium is needed: scripts/setup installs it");
        Self { child, profile }
    }

    /// What it prints until it ends.
    fn output(mut self) -> String {
        let mut stdout = self.child.stdout.take().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stdout, &mut text).unwrap();
        text
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its own processes go after it, and write to the profile until then. They have its output, which ends with the last of them.
        if let Some(mut stdout) = self.child.stdout.take() {
            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        }
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// A web site: one page that calls the API twice with one key, and says what came of it.
struct Site {
    origin: String,
    listener: TcpListener,
}

impl Site {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { origin: format!("http://{}", listener.local_addr().unwrap()), listener }
    }

    /// Opens the page, and gives what it says.
    async fn visited(self, serving: &Serving, key: &str) -> Value {
        let page = PAGE.replace("{api}", &serving.api("")).replace("{key}", key);
        let (say, mut said) = mpsc::channel(1);
        let site = Router::new().route("/", get(move || async move { Html(page) })).route(
            "/said",
            post(move |text: String| async move {
                say.send(text).await.unwrap();
            }),
        );
        let listener = self.listener;
        let serving = tokio::spawn(async move { axum::serve(listener, site).await });
        // Its port for the debugger keeps it open once the page is there.
        let browser = Browser::open(&["--remote-debugging-port=0"], &self.origin);
        let text = said.recv().await.unwrap();
        drop(browser);
        serving.abort();
        serde_json::from_str(&text).unwrap()
    }
}

const PAGE: &str = r#"<!doctype html><title>shop</title><script>
const pay = () => fetch('{api}/payments', {
  method: 'POST',
  headers: {'Content-Type': 'application/json', 'Idempotency-Key': '"order-1"', 'X-API-Key': '{key}'},
  body: JSON.stringify({amount: '49.99', currency: 'USD', customer_email: 'ada@example.com', customer_name: 'Ada'}),
});
const names = ['Location', 'Idempotent-Replayed', 'X-Request-Id', 'RateLimit', 'RateLimit-Remaining', 'X-Frame-Options'];
const read = answer => Object.fromEntries(names.map(name => [name, answer.headers.get(name)]));
(async () => {
  let said;
  try {
    const first = await pay();
    const again = await pay();
    const refused = await fetch('{api}/payments');
    said = {
      statuses: [first.status, again.status, refused.status],
      payment: await first.json(), problem: await refused.json(),
      first: read(first), again: read(again),
    };
  } catch (error) {
    said = {error: String(error)};
  }
  await fetch('/said', {method: 'POST', body: JSON.stringify(said)});
})();
</script>"#;

async fn payments(serving: &Serving, key: &str) -> usize {
    let request = client().get(serving.api("/payments")).header("x-api-key", key);
    let list: Value = request.send().await.unwrap().json().await.unwrap();
    list["data"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_an_allowed_origin_pays_and_another_cannot() {
    let (shop, other) = (Site::new().await, Site::new().await);
    let serving = Pgw::new().with("CORS_ORIGINS", &shop.origin).serve(&[]);
    let key = serving.first_key();

    let said = other.visited(&serving, &key).await;
    assert!(said["error"].as_str().unwrap().contains("Failed to fetch"), "{said}");
    assert_eq!(payments(&serving, &key).await, 0, "the preflight was refused, so nothing was sent");

    let said = shop.visited(&serving, &key).await;
    assert_eq!(said["statuses"], json!([201, 201, 401]), "{said}");
    assert_eq!(payments(&serving, &key).await, 1);
    let id = said["payment"]["id"].as_str().unwrap();
    assert!(said["first"]["Location"].as_str().unwrap().ends_with(id), "{said}");
    assert_eq!(said["first"]["Idempotent-Replayed"], Value::Null);
    assert_eq!(said["again"]["Idempotent-Replayed"], "true");
    for name in ["X-Request-Id", "RateLimit", "RateLimit-Remaining"] {
        assert!(said["again"][name].is_string(), "{name}: {said}");
    }
    assert_eq!(said["again"]["X-Frame-Options"], Value::Null, "only what is exposed is read");
    assert_eq!(said["problem"]["error"], "API key required");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documentation_is_rendered() {
    let serving = Pgw::new().serve(&[]);
    let document = client().get(serving.root("/openapi.json")).send().await.unwrap();
    let document: Value = document.json().await.unwrap();
    let url = serving.root("/docs");
    let dom = Browser::open(&["--dump-dom"], &url).output();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 20);
    for path in paths.keys() {
        assert!(dom.contains(&format!("<code>{path}</code>")), "{path}");
    }
    // The browser built the tree and closed what the page leaves open.
    assert!(dom.contains("</details>") && dom.trim_end().ends_with("</html>"), "{dom}");
}
