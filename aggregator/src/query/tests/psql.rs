//! psql's own statements, as it sends them.

use super::Bench;

const RECORDED: &str = include_str!("psql.sql");

/// The statements of one command, in order.
fn statements(command: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut taken = false;
    for line in RECORDED.lines() {
        if let Some(header) = line.strip_prefix("-- ") {
            taken = header == command;
            if taken {
                found.push(String::new());
            }
        } else if taken && let Some(last) = found.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    assert!(!found.is_empty(), "{command} was recorded");
    found
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.lines("fire,device=d1,site=a value=1.5,seq=1i,ok=true,note=\"x\"\nOdd\\ Name v=1");
    bench
}

async fn rows(bench: &Bench, command: &str) -> Vec<Vec<String>> {
    let statements = statements(command);
    assert_eq!(statements.len(), 1, "{command}");
    bench.ask(&statements[0]).await
}

#[tokio::test]
async fn every_recorded_statement_is_answered() {
    let bench = bench();
    for command in [
        "\\d",
        "\\dt",
        "\\d fire",
        "\\d+ fire",
        "\\dt+",
        "\\dv",
        "\\dn",
        "\\l",
        "\\du",
        "\\df",
    ] {
        for statement in statements(command) {
            bench.ask(&statement).await;
        }
    }
}

#[tokio::test]
async fn backslash_d_lists_tables_and_views() {
    let bench = bench();
    let listed = [
        ["public", "Odd Name", "table", "ada"],
        ["public", "agents", "view", "ada"],
        ["public", "fire", "table", "ada"],
        ["public", "gaps", "view", "ada"],
        ["public", "node_damage", "view", "ada"],
        ["public", "nodes", "view", "ada"],
    ];
    assert_eq!(rows(&bench, "\\d").await, listed);
    assert_eq!(rows(&bench, "\\dt").await, [listed[0], listed[2]]);
    assert_eq!(
        rows(&bench, "\\dv").await,
        [listed[1], listed[3], listed[4], listed[5]]
    );
}

#[tokio::test]
async fn backslash_d_table_shows_its_columns() {
    let bench = bench();
    let statements = statements("\\d fire");
    assert_eq!(
        bench.ask(&statements[0]).await,
        [["16384", "public", "fire"]]
    );
    let table = bench.ask(&statements[1]).await;
    assert_eq!(table.len(), 1);
    assert_eq!((table[0][1].as_str(), table[0][14].as_str()), ("r", "heap"));
    let columns: Vec<[String; 3]> = bench
        .ask(&statements[2])
        .await
        .into_iter()
        .map(|row| [row[0].clone(), row[1].clone(), row[3].clone()])
        .collect();
    assert_eq!(
        columns,
        [
            ["time", "timestamp with time zone", "true"],
            ["device", "text", "true"],
            ["site", "text", "false"],
            ["value", "double precision", "false"],
            ["seq", "bigint", "false"],
            ["ok", "boolean", "false"],
            ["note", "text", "false"],
        ]
    );
    for statement in &statements[3..] {
        assert_eq!(bench.ask(statement).await.len(), 0, "{statement}");
    }
    let unknown = statements[0].replace("fire", "nowhere");
    assert_eq!(bench.ask(&unknown).await.len(), 0);
}

#[tokio::test]
async fn other_lists_name_what_there_is() {
    let bench = bench();
    assert_eq!(rows(&bench, "\\dn").await, [["public", "ada"]]);
    assert_eq!(
        rows(&bench, "\\l").await[0][..3],
        ["tributary", "ada", "UTF8"]
    );
    assert_eq!(rows(&bench, "\\du").await[0][0], "ada");
    assert_eq!(rows(&bench, "\\df").await.len(), 0);
}
