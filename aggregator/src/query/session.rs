//! What DataFusion is told about one query: settings, functions, and the names it may read.

use std::path::Path;
use std::sync::Arc;

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProviderList, SchemaProvider,
};
use datafusion::config::Dialect;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{SessionStateDefaults, TaskContext};
use datafusion::prelude::SessionConfig;

use super::pg_catalog::{InformationSchema, PgCatalog, Relations};
use super::rollups;
use super::table::Public;
use super::{QueryError, QueryOptions, SessionSettings, Sources, aggregate, function, pg_catalog};

/// Of all times: what a query answers does not depend on who asks.
pub(super) const TIME_ZONE: &str = "UTC";
/// The one database.
pub(super) const DATABASE: &str = "tributary";
pub(super) const PUBLIC: &str = "public";

/// The spill folder, without what a node left there that was killed; its cap is shared by all
/// queries.
pub(super) fn runtime_env(options: &QueryOptions) -> Result<Arc<RuntimeEnv>, QueryError> {
    let folder = &options.spill_dir;
    emptied(folder).map_err(|error| QueryError::Internal {
        message: format!("cannot use the spill folder {}: {error}", folder.display()),
    })?;
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![
            options.spill_dir.clone(),
        ]))
        .with_max_temp_directory_size(options.spill_bytes_max)
        .build()?;
    env(options, Arc::new(disk))
}

/// Removes only what DataFusion makes: the path comes from a configuration.
fn emptied(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("datafusion-")
        {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// What a plan runs with: a memory pool of its own, beside the disk of all.
pub(super) fn task_context(
    state: &SessionState,
    options: &QueryOptions,
) -> Result<Arc<TaskContext>, QueryError> {
    let runtime = env(options, Arc::clone(&state.runtime_env().disk_manager))?;
    Ok(Arc::new(TaskContext::new(
        None,
        state.session_id().to_owned(),
        state.config().clone(),
        state.scalar_functions().clone(),
        state.higher_order_functions().clone(),
        state.aggregate_functions().clone(),
        state.window_functions().clone(),
        runtime,
    )))
}

fn env(options: &QueryOptions, disk: Arc<DiskManager>) -> Result<Arc<RuntimeEnv>, QueryError> {
    let pool = Arc::new(FairSpillPool::new(options.query_memory_bytes));
    let mut builder = RuntimeEnvBuilder::new().with_memory_pool(pool);
    builder.disk_manager = Some(disk);
    Ok(builder.build_arc()?)
}

/// What all queries have in common. No file formats and no table factories: nothing here opens a
/// file because a statement names it.
pub(super) fn base(options: &QueryOptions, runtime: Arc<RuntimeEnv>) -> SessionState {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(DATABASE, PUBLIC)
        .with_create_default_catalog_and_schema(false)
        .with_target_partitions(options.cores.max(1));
    let settings = config.options_mut();
    settings.execution.time_zone = Some(TIME_ZONE.to_owned());
    // Parts of a scan are ranges of devices: grouping by device and more needs no exchange.
    settings.optimizer.subset_repartition_threshold = 1;
    settings.sql_parser.dialect = Dialect::PostgreSQL;
    settings.sql_parser.map_string_types_to_utf8view = false;
    SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_physical_optimizer_rules(aggregate::rules())
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(function::scalar())
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_table_function_list(SessionStateDefaults::default_table_functions())
        .build()
}

/// The session of one statement.
pub(super) fn of(
    base: &SessionState,
    options: &QueryOptions,
    sources: Sources,
    settings: &SessionSettings,
) -> Result<SessionState, QueryError> {
    let relations = Arc::new(Relations::of(&sources.view));
    let catalogs = MemoryCatalogProviderList::new();
    let pg = Arc::new(PgCatalog::new(
        Arc::clone(&relations),
        settings.user.clone(),
    ));
    let public = Public {
        sources,
        cores: options.cores.max(1),
        pg: Arc::clone(&pg),
    };
    let database = Database {
        public: Arc::new(public),
        pg,
        information: Arc::new(InformationSchema {
            relations: Arc::clone(&relations),
        }),
    };
    catalogs.register_catalog(DATABASE.to_owned(), Arc::new(database));
    let mut state = base.clone();
    state.register_catalog_list(Arc::new(catalogs));
    for function in pg_catalog::functions(&relations, settings) {
        datafusion::execution::FunctionRegistry::register_udf(&mut state, Arc::new(function))?;
    }
    state.mark_start_execution();
    Ok(state)
}

#[derive(Debug)]
struct Database {
    public: Arc<Public>,
    pg: Arc<PgCatalog>,
    information: Arc<InformationSchema>,
}

impl CatalogProvider for Database {
    fn schema_names(&self) -> Vec<String> {
        let mut names = [PUBLIC, "pg_catalog", "information_schema"]
            .map(str::to_owned)
            .to_vec();
        names.extend(rollups::schema_names(&self.public.sources.view));
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        match name {
            PUBLIC => Some(Arc::clone(&self.public) as Arc<dyn SchemaProvider>),
            "pg_catalog" => Some(Arc::clone(&self.pg) as Arc<dyn SchemaProvider>),
            "information_schema" => Some(Arc::clone(&self.information) as Arc<dyn SchemaProvider>),
            _ => {
                let schema = rollups::schema(&self.public.sources.view, name)?;
                Some(Arc::new(schema))
            }
        }
    }
}
