//! From chains as they were typed to chains that name every file, top first.
//!
//! 1. `base,overlay` and `base,previous,current`, the order of some old tools, is turned round where
//!    the files leave no doubt; where they do, nothing is opened.
//! 2. A chain that ends in an image with a parent goes on as that image says, as far as following
//!    its paths is permitted.
//! 3. Only then is it known which files are written, and that nobody else has them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{EXPORT_OPTIONS, Export, Layer, ServeConfig, Top, Window};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{ImageFile, ImageName};
use crate::storage::FileOptions;
use crate::tools::{Gate, ParentReport, ParentState, is_base_first, parents, turned_words};
use crate::values::Address;

/// The configuration with complete chains, and what the operator should know about them.
///
/// # Errors
/// A chain whose order cannot be told, or whose end is not found.
pub(super) fn settle(config: &ServeConfig) -> Result<ServeConfig> {
    let mut config = config.clone();
    let gate = Gate::Within(config.follow.clone());
    // Many addresses over one golden image: it is looked at once.
    let mut known: Vec<(Export, Export)> = Vec::new();
    for export in &mut config.exports {
        let same = |(typed, _): &&(Export, Export)| {
            typed.top == export.top && typed.backing == export.backing
        };
        if let Some((_, settled)) = known.iter().find(same) {
            export.top.clone_from(&settled.top);
            export.backing.clone_from(&settled.backing);
            continue;
        }
        let typed = export.clone();
        let address = export.address;
        let mut warnings = Vec::new();
        refuse_mistyped(export).map_err(|e| e.export(address))?;
        turn_round(export, &mut warnings).map_err(|e| e.export(address))?;
        complete(export, &gate, &mut warnings).map_err(|e| e.export(address))?;
        config.warnings.extend(warnings.iter().map(|words| format!("{address}: {words}")));
        known.push((typed, export.clone()));
    }
    check_writers(&config.exports)?;
    Ok(config)
}

/// A bare word that no file has was meant as an option. (The top of a chain may be made.)
fn refuse_mistyped(export: &Export) -> Result<()> {
    let is_word = |path: &Path| {
        let bytes = path.as_os_str().as_encoded_bytes();
        bytes.iter().all(|b| b.is_ascii_lowercase() || matches!(b, b'-' | b'_')) && !path.exists()
    };
    for layer in &export.backing {
        if let Layer::File { path, .. } = layer
            && is_word(path)
        {
            return Err(HostError::new(ErrorKind::NotFound, "use the layer")
                .path(path)
                .detail("there is no such file")
                .advice(format!("options of an export are {EXPORT_OPTIONS}")));
        }
    }
    Ok(())
}

/// A file is written by one export only, and never read as a layer by any.
fn check_writers(exports: &[Export]) -> Result<()> {
    let mut writer_of: BTreeMap<PathBuf, Address> = BTreeMap::new();
    for export in exports {
        if let Top::File(path) = &export.top
            && let Some(other) = writer_of.insert(ImageName::parse(path).path, export.address)
        {
            return Err(HostError::usage("serve", format!("{other} writes to the same overlay"))
                .path(path)
                .export(export.address)
                .advice("two disks can never share one overlay"));
        }
    }
    for export in exports {
        let mut files = layer_files(export).map(|path| ImageName::parse(path).path);
        if let Some((path, writer)) =
            files.find_map(|path| writer_of.get(&path).map(|writer| (path, writer)))
        {
            return Err(HostError::usage(
                "serve",
                format!("{writer} writes to a file that is a layer here"),
            )
            .path(path)
            .export(export.address)
            .advice("freeze the overlay first, or use another one"));
        }
    }
    Ok(())
}

fn layer_files(export: &Export) -> impl Iterator<Item = &PathBuf> {
    export.backing.iter().filter_map(|layer| match layer {
        Layer::File { path, .. } => Some(path),
        Layer::Recorded | Layer::Blank { .. } => None,
    })
}

/// Puts a chain of files that was typed from the base up into the order from the top down.
fn turn_round(export: &mut Export, warnings: &mut Vec<String>) -> Result<()> {
    let Some(mut paths) = files_of(export) else { return Ok(()) };
    if !is_base_first(&paths)? {
        return Ok(());
    }
    if let [base, .., top] = paths.as_slice() {
        warnings.push(turned_words(base, top));
    }
    paths.reverse();
    if let Top::File(top) = &mut export.top {
        *top = paths.remove(0);
    }
    let layer = |path| Layer::File { path, window: Window::default() };
    export.backing = paths.into_iter().map(layer).collect();
    Ok(())
}

/// The files of a chain as typed, if it is made of whole files only and has no overlay besides.
fn files_of(export: &Export) -> Option<Vec<PathBuf>> {
    let mut paths = match &export.top {
        Top::File(path) => vec![path.clone()],
        Top::ReadOnly | Top::PerClient => Vec::new(),
        Top::Own => return None,
    };
    for layer in &export.backing {
        match layer {
            Layer::File { path, window } if *window == Window::default() => {
                paths.push(path.clone());
            }
            _ => return None,
        }
    }
    Some(paths)
}

/// Appends what the lowest image says is below it.
fn complete(export: &mut Export, gate: &Gate, warnings: &mut Vec<String>) -> Result<()> {
    let is_asked = export.backing.last() == Some(&Layer::Recorded);
    if is_asked {
        export.backing.pop();
    }
    let (path, window) = match (export.backing.last(), &export.top) {
        (Some(Layer::File { path, window }), _) => (path, *window),
        (None, Top::File(path)) => (path, Window::default()),
        _ => return Ok(()),
    };
    if window != Window::default() {
        return Ok(()); // a part of a device is plain
    }
    let name = ImageName::parse(path);
    if !is_asked && !name.path.exists() {
        return Ok(()); // whoever opens it says so
    }
    let (file, format) = name.open(&FileOptions::default())?;
    if is_asked && format.ops().is_plain() {
        return Err(HostError::usage("use the overlay", "it is a plain image")
            .path(&name.path)
            .advice("`cow:` is for overlays that name what is below them"));
    }
    let layers = below(&file, format, gate, warnings)?;
    export.backing.extend(layers);
    if export.backing.is_empty() {
        // Nothing is below the overlay but zeros.
        let len_bytes = format.ops().disk_bytes(&file)?.unwrap_or_default();
        export.backing.push(Layer::Blank { len_bytes });
    }
    Ok(())
}

/// The layers below an image, as it and its parents record them.
fn below(
    file: &ImageFile,
    format: crate::image::Format,
    gate: &Gate,
    warnings: &mut Vec<String>,
) -> Result<Vec<Layer>> {
    let (reports, layers) = parents(file, format.ops().parent(file)?, gate)?;
    if let Some(bad) = reports.iter().find(|report| !report.is_usable()) {
        return Err(not_found(file.path(), bad));
    }
    for report in reports.iter().filter(|report| report.state == ParentState::Unverified) {
        let path = report.path.as_deref().unwrap_or(Path::new("")).display();
        warnings.push(format!(
            "`{path}` is used because an image above names it; nothing tells whether it was changed"
        ));
    }
    Ok(layers)
}

fn not_found(child: &Path, report: &ParentReport) -> HostError {
    let advice = match &report.state {
        ParentState::Elsewhere => "add --follow DIR, or name the whole chain, from top to base",
        ParentState::Different(_) => {
            "`cowblade rebind` accepts another file of the same content; or name the right one behind it"
        }
        _ => "name the whole chain, from top to base",
    };
    HostError::new(ErrorKind::Mismatch, "find what is below the image")
        .path(child)
        .detail(report.to_string())
        .advice(advice)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::config::{ExportWord, ServeWords};
    use crate::tools::{CreateRequest, create};

    fn quiet() -> impl FnMut(u64, u64) {
        |_, _| {}
    }

    /// What `--export 0.1=CHAIN` comes to, with `{}` for the directory.
    fn settled(dir: &Path, chain: &str, follow: &[&Path]) -> Result<(Export, Vec<String>)> {
        let chain = chain.replace("{}", &dir.display().to_string());
        let word: ExportWord = format!("0.1={chain}").parse().unwrap();
        let words = ServeWords {
            interface: vec!["eth0".to_owned()],
            export: vec![word],
            overlays: Some(dir.join("overlays")),
            follow: follow.iter().map(|path| path.to_path_buf()).collect(),
            ..ServeWords::default()
        };
        let typed = words.resolve()?;
        let before = typed.warnings.len();
        let mut config = settle(&typed)?;
        let warnings = config.warnings.split_off(before);
        Ok((config.exports.remove(0), warnings))
    }

    fn names(export: &Export) -> Vec<String> {
        let file = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let top = match &export.top {
            Top::File(path) => Some(file(path)),
            _ => None,
        };
        let layer = |layer: &Layer| match layer {
            Layer::File { path, .. } => file(path),
            other => format!("{other:?}"),
        };
        top.into_iter().chain(export.backing.iter().map(layer)).collect()
    }

    fn overlay(path: PathBuf, backing: &Path) {
        let request =
            CreateRequest { path, backing: Some(backing.to_owned()), ..CreateRequest::default() };
        create(&request, &mut quiet()).unwrap();
    }

    /// `golden` below the frozen `middle` below `top`, and `other` elsewhere.
    fn files() -> (TempDir, TempDir) {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let golden = dir.path().join("golden");
        std::fs::write(&golden, vec![7; 8192]).unwrap();
        let middle = dir.path().join("middle");
        overlay(middle.clone(), &golden);
        crate::tools::freeze(&middle).unwrap();
        overlay(dir.path().join("top"), &middle);
        overlay(elsewhere.path().join("other"), &golden);
        (dir, elsewhere)
    }

    #[test]
    fn an_order_from_the_base_up_is_turned_round_only_where_nothing_is_in_doubt() {
        let (dir, _elsewhere) = files();
        let dir = dir.path();
        for chain in ["{}/top,{}/middle,{}/golden", "{}/golden,{}/middle,{}/top"] {
            let (export, warnings) = settled(dir, chain, &[]).unwrap();
            assert_eq!(names(&export), ["top", "middle", "golden"], "{chain}");
            assert_eq!(warnings.len(), usize::from(chain.starts_with("{}/golden")), "{warnings:?}");
        }
        let (export, _) = settled(dir, "{}/golden,{}/middle,ro", &[]).unwrap();
        assert_eq!((export.top, export.backing.len()), (Top::ReadOnly, 2));
        // To be made: stays as typed.
        let (export, _) = settled(dir, "{}/new,{}/golden", &[]).unwrap();
        assert_eq!(names(&export), ["new", "golden"]);
        for (chain, why) in
            [("{}/golden,{}/new", "does not exist"), ("{}/golden,{}/golden2", "a base as well")]
        {
            std::fs::write(dir.join("golden2"), [0; 512]).unwrap();
            let error = settled(dir, chain, &[]).unwrap_err().to_string();
            assert!(error.contains(why), "{chain}: {error}");
            assert!(!dir.join("new").exists());
        }
        let error = settled(dir, "{}/golden,readonly", &[]).unwrap_err().to_string();
        assert!(error.contains("per-client"), "{error}");
    }

    #[test]
    fn a_file_is_written_by_one_disk_only_whichever_way_round_it_is_typed() {
        let (dir, _elsewhere) = files();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let [golden, middle, top] = ["golden", "middle", "top"].map(path);
        overlay(path("other").into(), Path::new(&golden));
        let other = path("other");
        let two = |first: String, second: String| {
            let word = |chain: String| -> ExportWord { chain.parse().unwrap() };
            let words = ServeWords {
                interface: vec!["eth0".to_owned()],
                export: vec![word(format!("0.1={first}")), word(format!("0.2={second}"))],
                overlays: Some(dir.path().join("overlays")),
                ..ServeWords::default()
            };
            settle(&words.resolve().unwrap()).map(drop).map_err(|error| error.to_string())
        };
        let up = format!("{golden},{middle},{top}");
        assert_eq!(two(up.clone(), format!("{golden},{other}")), Ok(()), "one base below both");
        let error = two(up, format!("native:{top},{middle},{golden}")).unwrap_err();
        assert!(error.contains("writes to the same overlay"), "{error}");
        let error = two(format!("{golden},{other}"), format!("{top},{other}")).unwrap_err();
        assert!(error.contains("a file that is a layer"), "{error}");
    }

    #[test]
    fn what_an_image_names_completes_the_chain() {
        let (dir, elsewhere) = files();
        let (dir, other) = (dir.path(), elsewhere.path());
        for chain in ["cow:{}/top", "{}/top,{}/middle"] {
            let (export, warnings) = settled(dir, chain, &[]).unwrap();
            assert_eq!(names(&export), ["top", "middle", "golden"], "{chain}");
            assert!(warnings.is_empty(), "{warnings:?}");
        }
        let (export, _) = settled(dir, "cow:{}/middle,ro", &[]).unwrap();
        assert_eq!(
            (names(&export), export.top),
            (vec!["middle".into(), "golden".into()], Top::ReadOnly)
        );
        // A path that leads elsewhere is followed only where that is permitted.
        let error = settled(other, "cow:{}/other", &[]).unwrap_err().report();
        assert!(error.contains("--follow"), "{error}");
        let (export, _) = settled(other, "cow:{}/other", &[dir]).unwrap();
        assert_eq!(names(&export), ["other", "golden"]);
        let error = settled(dir, "cow:{}/golden", &[]).unwrap_err().to_string();
        assert!(error.contains("plain image"), "{error}");
        // What it leads to through a symbolic link counts.
        std::os::unix::fs::symlink(dir.join("golden"), other.join("link")).unwrap();
        overlay(other.join("linked"), &other.join("link"));
        assert!(settled(other, "cow:{}/linked", &[]).is_err());
        // A parent that was changed is not served.
        std::fs::write(dir.join("golden"), vec![8; 8192]).unwrap();
        assert!(settled(dir, "cow:{}/top", &[]).is_err());
    }
}
