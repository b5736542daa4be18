"""Checks the contracts between the pack's parts in pyproject.toml, by import-linter.

The folder of the repository can have any name: import-linter finds it as the package `cocktail`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from importlinter import Contract, ContractCheck, cli, fields, output

ROOT = Path(__file__).resolve().parents[1]


class ImportsOnly(Contract):
    """A package imports of this pack only itself and what is named."""

    type_name = "imports_only"
    importer = fields.ModuleField()
    imported = fields.ListField(subfield=fields.ModuleField())

    def check(self, graph: Any, verbose: bool) -> ContractCheck:
        package = self.importer.name
        allowed = (package, *(module.name for module in self.imported))
        too_much = [
            f"{module} imports {imported}"
            for module in sorted({package, *graph.find_descendants(package)})
            for imported in sorted(graph.find_modules_directly_imported_by(module))
            if imported.startswith("cocktail.") and not _within(imported, allowed)
        ]
        return ContractCheck(kept=not too_much, metadata={"too much": too_much})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["too much"]:
            output.print_error(line)


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


class NoCircles(Contract):
    """No file imports one that imports it, however many files lie between them."""

    type_name = "no_circles"

    def check(self, graph: Any, verbose: bool) -> ContractCheck:
        imports = {
            module: sorted(graph.find_modules_directly_imported_by(module))
            for module in sorted(graph.modules)
            if not graph.is_module_squashed(module)
        }
        found = circle(imports)
        return ContractCheck(kept=not found, metadata={"circle": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        output.print_error("These files import each other in a circle:")
        for module in check.metadata["circle"]:
            output.print_error(f"  {module}")


def circle(imports: dict[str, list[str]]) -> list[str]:
    """Modules of which each imports the next, the last being the first again; empty if there is no
    circle.
    """
    done: set[str] = set()
    path: list[str] = []

    def follow(module: str) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        path.append(module)
        for imported in imports.get(module, ()):
            if found := follow(imported):
                return found
        path.pop()
        done.add(module)
        return []

    for module in imports:
        if found := follow(module):
            return found
    return []


def main() -> int:
    spec = importlib.util.spec_from_file_location(
        "cocktail", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["cocktail"] = importlib.util.module_from_spec(spec)
    return cli.lint_imports(
        config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True
    )


if __name__ == "__main__":
    sys.exit(main())
