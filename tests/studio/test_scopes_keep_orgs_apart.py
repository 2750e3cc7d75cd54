"""A scope sees and touches the rows of its own org alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from flowmason.ids import OrgId
from flowmason.studio import schema
from flowmason.studio.scope import StudioStore

ONE, TWO = OrgId("org_one"), OrgId("org_two")


@pytest.fixture
def store(tmp_path: Path) -> StudioStore:
    return StudioStore.open(f"sqlite:///{tmp_path / 'studio.db'}")


def _member(store: StudioStore, org: OrgId, member: str) -> None:
    with store.scope(org) as scope:
        scope.add(schema.members, member_id=member, user_id="user_x", role="viewer", created_at=1)


def test_rows_of_another_org_are_neither_found_changed_nor_removed(store: StudioStore) -> None:
    _member(store, ONE, "mem_1")
    with store.scope(TWO) as scope:
        assert scope.find(schema.members) == []
        assert scope.one(schema.members, schema.members.c.member_id == "mem_1") is None
        assert scope.count(schema.members) == 0
        assert scope.change(schema.members, schema.members.c.member_id == "mem_1", role="owner") == 0
        assert scope.remove(schema.members, schema.members.c.member_id == "mem_1") == 0
    with store.scope(ONE) as scope:
        assert [row["role"] for row in scope.find(schema.members)] == ["viewer"]


def test_a_row_never_changes_its_org_and_tables_of_no_org_are_out_of_reach(store: StudioStore) -> None:
    _member(store, ONE, "mem_1")
    with store.scope(ONE) as scope:
        with pytest.raises(ValueError, match="never changes its org"):
            scope.change(schema.members, org_id=TWO)
        with pytest.raises(ValueError, match="belongs to no org"):
            scope.find(schema.users)


def test_a_block_that_raises_leaves_nothing_behind(store: StudioStore) -> None:
    with pytest.raises(RuntimeError), store.scope(ONE) as scope:
        scope.add(schema.members, member_id="mem_1", user_id="user_x", role="viewer", created_at=1)
        raise RuntimeError
    with store.scope(ONE, writing=False) as scope:
        assert scope.count(schema.members) == 0


def test_the_schema_is_what_the_migrations_make(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studio.db'}"
    StudioStore.open(url).close()
    engine = sa.create_engine(url)
    found = sa.MetaData()
    found.reflect(engine)
    engine.dispose()
    for table in schema.metadata.sorted_tables:
        made = found.tables[table.name]
        assert {(c.name, c.nullable, c.primary_key, str(c.type)) for c in made.columns} == {
            (c.name, c.nullable, c.primary_key, str(c.type.compile(engine.dialect))) for c in table.columns
        }, table.name
