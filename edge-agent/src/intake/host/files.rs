//! Reads the kernel's files about this machine.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use shared::reading::Reading;

use super::{Row, cpu, disk, load, memory, network, temperature};

/// Bytes of one kernel file; those of machines with hundreds of cores are a tenth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Sensors of one machine.
const SENSORS_MAX: usize = 256;

/// Looks at the machine; remembers the last look, and what it could not see.
#[derive(Debug)]
pub(super) struct Sampler {
    root: PathBuf,
    cores: Option<cpu::Cores>,
    /// Found once: sensors do not come and go, and finding them is slow.
    sensors: Option<Vec<Sensor>>,
    unsupported: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct Sensor {
    name: String,
    file: PathBuf,
}

impl Sampler {
    /// `root` is `/`, but in tests.
    pub(super) fn new(root: PathBuf) -> Sampler {
        Sampler {
            root,
            cores: None,
            sensors: None,
            unsupported: BTreeSet::new(),
        }
    }

    /// Everything there is to know at this moment.
    pub(super) fn sample(&mut self, row: &Row) -> Vec<Reading> {
        let mut readings = Vec::new();
        if let Some(text) = self.read("proc/loadavg") {
            let uptime = self.read("proc/uptime");
            readings.extend(load::readings(row, &text, uptime.as_deref()));
        }
        if let Some(text) = self.read("proc/stat") {
            let now = cpu::parse(&text);
            if let Some(before) = self.cores.replace(now.clone()) {
                readings.extend(cpu::readings(row, &before, &now));
            }
        }
        if let Some(text) = self.read("proc/meminfo") {
            readings.extend(memory::readings(row, &text));
        }
        if let Some(text) = self.read("proc/diskstats") {
            let disks = self.root.join("sys/block");
            let is_disk = |name: &str| disks.join(name).exists();
            readings.extend(disk::readings(row, &text, is_disk));
        }
        if let Some(text) = self.read("proc/net/dev") {
            readings.extend(network::readings(row, &text));
        }
        let root = &self.root;
        let sensors = self.sensors.get_or_insert_with(|| sensors(root));
        readings.extend(sensors.iter().filter_map(|sensor| {
            let text = read(&sensor.file).ok()?;
            temperature::reading(row, &sensor.name, &text)
        }));
        readings
    }

    /// A file that cannot be read is told once and tried again: it may come later.
    fn read(&mut self, name: &str) -> Option<String> {
        let path = self.root.join(name);
        match read(&path) {
            Ok(text) => Some(text),
            Err(error) => {
                if self.unsupported.insert(path.clone()) {
                    tracing::info!("host: {} is left out: {error}", path.display());
                }
                None
            }
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = fs::File::open(path)?.take(FILE_BYTES_MAX);
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// All sensors, each with a name of its own.
fn sensors(root: &Path) -> Vec<Sensor> {
    let mut found = Vec::new();
    for zone in entries(&root.join("sys/class/thermal"), "thermal_zone") {
        let name = read(&zone.join("type")).unwrap_or_default();
        found.push((name, zone.join("temp")));
    }
    for chip in entries(&root.join("sys/class/hwmon"), "hwmon") {
        let chip_name = read(&chip.join("name")).unwrap_or_default();
        for file in entries(&chip, "temp") {
            let text = file.to_string_lossy().into_owned();
            let Some(start) = text.strip_suffix("_input") else {
                continue;
            };
            let number = start.rsplit('/').next().unwrap_or_default().to_owned();
            let label = read(Path::new(&format!("{start}_label"))).unwrap_or(number);
            found.push((format!("{} {}", chip_name.trim(), label.trim()), file));
        }
    }
    found.truncate(SENSORS_MAX);
    if found.is_empty() {
        tracing::info!("host: this machine shows no temperature sensors");
    }
    let mut names = BTreeSet::new();
    let name_apart = |(name, file): (String, PathBuf)| {
        let plain = name.trim().to_owned();
        let copies = (2..).map(|copy| format!("{plain} {copy}"));
        let mut candidates = std::iter::once(plain.clone()).chain(copies);
        let name = candidates.find(|name| names.insert(name.clone()))?;
        Some(Sensor { name, file })
    };
    found.into_iter().filter_map(name_apart).collect()
}

/// What a folder holds whose name begins so, sorted; nothing if there is no folder.
fn entries(folder: &Path, start: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(start))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::super::{lines, test_row};
    use super::*;

    #[test]
    fn this_machine_has_load_memory_and_after_a_second_look_cores() {
        let mut sampler = Sampler::new("/".into());
        let tables = |readings: &[Reading]| -> BTreeSet<String> {
            readings
                .iter()
                .map(|reading| reading.shape.table.clone())
                .collect()
        };
        let first = tables(&sampler.sample(&test_row()));
        assert!(
            first.contains("host_load") && first.contains("host_memory"),
            "{first:?}"
        );
        assert!(!first.contains("host_cpu"), "{first:?}");
    }

    #[test]
    fn a_machine_is_read_as_far_as_it_shows_itself() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/stat", "cpu 1 1 1 1\n");
        write("sys/class/thermal/thermal_zone0/type", "soc\n");
        write("sys/class/thermal/thermal_zone0/temp", "41000\n");
        write("sys/class/thermal/thermal_zone1/type", "soc\n");
        write("sys/class/thermal/thermal_zone1/temp", "42000\n");
        write("sys/class/hwmon/hwmon0/name", "nvme\n");
        write("sys/class/hwmon/hwmon0/temp1_input", "30500\n");
        write("sys/class/hwmon/hwmon0/temp1_label", "Composite\n");
        let mut sampler = Sampler::new(root.to_owned());
        let told = sampler.sample(&test_row());
        assert_eq!(
            lines(&told),
            [
                "host_temperature,device=gw1,sensor=soc celsius=41.0 9",
                "host_temperature,device=gw1,sensor=soc\\ 2 celsius=42.0 9",
                "host_temperature,device=gw1,sensor=nvme\\ Composite celsius=30.5 9",
            ]
        );
        assert!(sampler.unsupported.contains(&root.join("proc/loadavg")));

        write("proc/stat", "cpu 2 1 1 2\n");
        let told = sampler.sample(&test_row());
        assert!(lines(&told)[0].starts_with("host_cpu,device=gw1,cpu=total busy_percent=50.0"));
    }
}
