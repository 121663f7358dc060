//! The query CLI against a real node: rows, status, and each documented exit code.

use tests::cluster::ClusterUnderTest;

#[test]
fn answers_and_exit_codes() {
    let mut cluster = ClusterUnderTest::start(1);
    let client = cluster.client(0);

    let answer = client.run(&["sql", "SELECT 1 AS b, 'x,\"y' AS a", "--format", "csv"]);
    assert_eq!(answer.unwrap(), "b,a\n1,\"x,\"\"y\"\n");
    let answer = client.run(&["sql", "SELECT 1 AS b, 'x' AS a", "--format", "jsonl"]);
    assert_eq!(answer.unwrap(), "{\"b\":1,\"a\":\"x\"}\n");
    let status = client.run(&["status"]).unwrap();
    assert!(status.contains("leader"), "{status}");

    let code = |arguments: &[&str]| client.run(arguments).unwrap_err();
    let query = code(&["sql", "SELECT * FROM nowhere"]);
    assert_eq!(query.exit_code, 1, "{query}");
    assert!(query.message.contains("nowhere"), "{query}");
    assert_eq!(code(&["sql"]).exit_code, 2);
    assert_eq!(
        code(&["sql", "SELECT 1", "--server", "http://x:1"]).exit_code,
        2
    );

    let mut stranger = client.clone();
    stranger.password = "not the password".to_owned();
    let refused = stranger.run(&["sql", "SELECT 1"]).unwrap_err();
    assert_eq!(refused.exit_code, 4, "{refused}");

    let mut lost = client.clone();
    lost.ca = cluster.pki_folder().join("agents-ca.pem");
    let untrusted = lost.run(&["sql", "SELECT 1"]).unwrap_err();
    assert_eq!(untrusted.exit_code, 3, "{untrusted}");
    assert!(untrusted.message.contains("--ca"), "{untrusted}");

    cluster.kill(0);
    let gone = client.run(&["sql", "SELECT 1"]).unwrap_err();
    assert_eq!(gone.exit_code, 3, "{gone}");
    assert!(gone.message.contains("cannot reach"), "{gone}");
}
