"""Features are collected by key and button, noted, shared, exported, imported; they survive a restart."""

import json

import httpx
import pytest

from lexiscope.settings import Settings
from server import create_app
from store import ApiKeys
from tests.browser.conftest import held
from tests.server_thread import running
from tests.store import synthetic

ID, OTHER = "tiny/1-vasae/6", "tiny/1-vasae/5"


def saved(page):
    page.goto("/lists")
    page.locator("#own").wait_for()
    page.locator("#rows tr, #none:not([hidden])").first.wait_for()
    return [link.inner_text() for link in page.locator("#rows th a").all()]


def test_a_feature_is_saved_by_key_and_button_and_is_there_after_a_restart(page, context):
    page.goto(f"/{ID}")
    page.keyboard.press("s")
    page.get_by_role("status").get_by_text(f"Saved {ID}").wait_for()
    page.goto(f"/{OTHER}")
    page.get_by_role("button", name="Save", exact=True).click()
    assert page.get_by_role("button", name="Saved").get_attribute("aria-pressed") == "true"
    page.close()
    again = context.new_page()
    assert saved(again) == [ID, OTHER]
    again.locator("#rows .badge").nth(1).wait_for()
    assert "before 100%" in again.locator("#rows").inner_text() and again.locator("#rows .badge").count() == 2


def test_a_row_of_a_list_is_chosen_by_keys_and_saved(page):
    page.goto("/tiny/1-vasae?sort=index#features")
    rows = page.locator("table.features tbody tr")
    page.locator("table.features tbody tr a").first.focus()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert rows.nth(1).evaluate("row => row.contains(document.activeElement)")
    page.keyboard.press("s")
    page.get_by_role("status").get_by_text("Saved tiny/1-vasae/1 ").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_url("**/tiny/1-vasae/1*")


def test_the_focused_feature_of_a_row_with_several_is_saved(page):
    page.goto("/search?q=word")
    page.locator("details.more summary").click()
    row = page.locator("table.hits tbody tr", has=page.locator("a.best:nth-of-type(2)")).first
    first, second = (row.locator("a.best").nth(place) for place in (0, 1))
    for link in (second, first):
        link.focus()
        page.keyboard.press("s")
        page.get_by_role("status").get_by_text(f"Saved {link.get_attribute('title')} ").wait_for()


def test_a_feature_that_is_taken_out_comes_back_with_its_note(page):
    kept = {"open": "a", "lists": {"a": [{"id": ID, "note": "mine"}, {"id": OTHER, "note": ""}]}}
    page.goto(f"/{ID}")
    page.evaluate("lists => localStorage.setItem('lexiscope.lists', JSON.stringify(lists))", kept)
    page.reload()
    page.get_by_role("button", name="Saved").click()
    page.get_by_role("status").get_by_text(f"Took {ID} out").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("status").get_by_text(f"Put {ID} back").wait_for()
    assert page.get_by_role("button", name="Saved").is_visible()
    assert json.loads(page.evaluate("localStorage['lexiscope.lists']"))["lists"] == kept["lists"]


def test_the_button_says_what_another_tab_did(page, context):
    page.goto(f"/{ID}")
    other = context.new_page()
    other.goto(f"/{ID}")
    other.keyboard.press("s")
    page.get_by_role("button", name="Saved").wait_for()


def test_n_and_p_walk_through_features(page):
    page.goto(f"/{ID}")
    page.keyboard.press("n")
    page.wait_for_url("**/tiny/1-vasae/7*")
    page.keyboard.press("p")
    page.wait_for_url(f"**/{ID}*")


def test_a_key_that_is_typed_into_a_field_does_nothing_else(page):
    page.goto(f"/{ID}")
    page.keyboard.press("/")
    page.keyboard.type("jsnp?")
    assert page.locator("input[type=search]").input_value() == "jsnp?"
    assert page.locator(".toast, dialog").count() == 0


def test_the_keys_are_listed(page):
    page.goto("/")
    page.locator("h1").click()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    assert dialog.locator("kbd").all_inner_texts() == ["/", "j", "k", "Enter", "n", "p", "s", "?"]
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_a_shared_address_shows_the_list_and_its_notes_without_scripts(page, chromium, site):
    for one in (ID, OTHER):
        page.goto(f"/{one}")
        page.keyboard.press("s")
        page.get_by_role("status").get_by_text("Saved").wait_for()
    saved(page)
    page.get_by_label(f"Note on {ID}").fill('fires, maybe, on "<b>"')
    page.get_by_label(f"Note on {ID}").press("Tab")
    address = page.locator("#share").get_attribute("href")
    context = chromium.new_context(base_url=site, java_script_enabled=False)
    other = context.new_page()
    other.goto(address)
    rows = other.locator("section:has(#shared) tbody tr")
    assert rows.count() == 2 and 'fires, maybe, on "<b>"' in rows.first.inner_text()
    context.close()
    visitor = chromium.new_context(base_url=site)
    there = visitor.new_page()
    there.goto(address)
    there.get_by_role("button", name="Keep it in this browser").click()
    assert saved(there) == [ID, OTHER]
    visitor.close()


def test_what_another_tab_saved_is_shown_and_survives_an_edit(page, context):
    page.goto(f"/{ID}")
    page.keyboard.press("s")
    saved(page)
    other = context.new_page()
    other.goto(f"/{OTHER}")
    page.get_by_label(f"Note on {ID}").fill("typed here")
    other.keyboard.press("s")
    other.get_by_role("status").get_by_text(f"Saved {OTHER}").wait_for()
    page.get_by_label(f"Note on {ID}").press("Tab")
    page.get_by_label(f"Note on {OTHER}").wait_for()
    assert page.get_by_label(f"Note on {ID}").input_value() == "typed here"
    other.keyboard.press("s")
    page.get_by_label(f"Note on {OTHER}").wait_for(state="detached")
    assert saved(page) == [ID]


def test_lists_without_the_open_one_are_all_there(page):
    kept = {
        "open": "gone",
        "lists": {"constructor": [{"id": ID, "note": "a"}], "b": [{"id": OTHER, "note": ""}]},
    }
    page.goto("/lists")
    page.evaluate("lists => localStorage.setItem('lexiscope.lists', JSON.stringify(lists))", kept)
    assert saved(page) == [ID]
    page.goto(f"/{OTHER}")
    page.keyboard.press("s")
    page.get_by_role("status").get_by_text(f"Saved {OTHER} to “constructor” (2).").wait_for()
    stored = json.loads(page.evaluate("localStorage['lexiscope.lists']"))
    assert stored["open"] == "constructor" and list(stored["lists"]) == ["constructor", "b"]
    assert [one["id"] for one in stored["lists"]["constructor"]] == [ID, OTHER]


def test_a_list_may_have_any_name_and_one_that_is_gone_is_not_opened(page, context):
    page.goto("/lists")
    for name in ("constructor", "__proto__"):
        page.get_by_label("Name").fill(name)
        page.get_by_role("button", name="New list").click()
        page.locator("#which option", has_text=f"{name} (0)").wait_for(state="attached")
    page.evaluate("document.getElementById('which').append(new Option('gone', 'gone'))")
    page.locator("#which").select_option("gone")
    page.get_by_text("“gone” is no longer there").wait_for()
    assert json.loads(page.evaluate("localStorage['lexiscope.lists']"))["open"] == "__proto__"


def test_rows_are_there_before_the_server_describes_them_and_stay_while_it_does(page):
    lists = {
        "a": [{"id": one, "note": ""} for one in (ID, "tiny/9-gone/1")],
        "b": [{"id": OTHER, "note": ""}],
    }
    page.goto("/lists")
    page.evaluate(
        "lists => localStorage.setItem('lexiscope.lists', JSON.stringify({ open: 'a', lists }))", lists
    )
    asked = held(page, "**/lists.json?*")
    page.goto("/lists")
    page.get_by_label(f"Note on {ID}").fill("typed")
    page.locator("#which").select_option("b")
    page.get_by_label(f"Note on {OTHER}").wait_for()
    while len(asked) < 3:  # of each show: a, a with its note, b
        page.wait_for_timeout(20)
    for route in reversed(asked):  # the first asked is answered last
        route.continue_()
    page.locator("#rows .badge").wait_for()
    page.wait_for_timeout(300)
    assert page.locator("#rows tr").count() == 1 and page.locator("#rows th").inner_text() == OTHER
    page.locator("#which").select_option("a")
    page.get_by_text("not in this index").wait_for()
    assert len(asked) == 3, "what the server knows or does not know is asked once"
    assert page.get_by_label(f"Note on {ID}").input_value() == "typed"


def test_the_field_after_an_edited_note_keeps_the_focus(page):
    for one in (ID, OTHER):
        page.goto(f"/{one}")
        page.keyboard.press("s")
        page.get_by_role("status").get_by_text("Saved").wait_for()
    saved(page)
    page.locator("#rows .badge").nth(1).wait_for()
    page.get_by_label(f"Note on {ID}").fill("a")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("b")
    page.keyboard.press("Tab")
    stored = json.loads(page.evaluate("localStorage['lexiscope.lists']"))
    assert [one["note"] for one in stored["lists"]["My list"]] == ["a", "b"]


def test_a_server_that_does_not_answer_leaves_the_list(page):
    page.goto(f"/{ID}")
    page.keyboard.press("s")
    page.get_by_role("status").get_by_text("Saved").wait_for()
    page.route("**/lists.json?*", lambda route: route.abort())
    assert saved(page) == [ID]
    page.get_by_text("The server does not say what these features are").wait_for()


def test_the_address_of_another_host_is_no_link(page):
    elsewhere = "\\evil.example/0-x/1"
    lists = {
        "open": "a",
        "lists": {"a": [{"id": one, "note": ""} for one in (ID, "/evil.example/x", elsewhere)]},
    }
    page.goto("/lists")
    page.evaluate("lists => localStorage.setItem('lexiscope.lists', JSON.stringify(lists))", lists)
    assert saved(page) == [ID] and page.locator("#rows tr").count() == 3
    page.locator("#file").set_input_files(
        {"name": "x.csv", "mimeType": "text/plain", "buffer": f"id,note\n{elsewhere},\n".encode()}
    )
    page.get_by_text("Nothing was read.").wait_for()


@pytest.mark.parametrize("kind", ["CSV", "JSON"])
def test_an_exported_list_is_imported_as_it_was(page, chromium, site, tmp_path, kind):
    page.goto(f"/{ID}")
    page.keyboard.press("s")
    saved(page)
    page.get_by_label(f"Note on {ID}").fill('a, "b"')
    page.get_by_label(f"Note on {ID}").press("Tab")
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Export {kind}").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    other = chromium.new_context(base_url=site)
    there = other.new_page()
    there.goto("/lists")
    there.locator("#file").set_input_files(file)
    there.get_by_text("Read 1 features into “My list”.").wait_for()
    assert there.get_by_label(f"Note on {ID}").input_value() == 'a, "b"'
    other.close()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("x.csv", "feature\ntiny/1-vasae/6\n", 'no first line "id,note"'),
        ("x.csv", "id,note\nParis,\n", "entry 1, “Paris”, is no model/source/index"),
        ("x.json", '{"features": 3}', 'no list named "features"'),
        ("x.json", "{", "is no JSON"),
    ],
)
def test_a_file_that_is_no_list_is_refused_and_nothing_is_lost(page, name, text, says):
    page.goto(f"/{ID}")
    page.keyboard.press("s")
    saved(page)
    page.locator("#file").set_input_files({"name": name, "mimeType": "text/plain", "buffer": text.encode()})
    page.get_by_text("Nothing was read.").wait_for()
    assert says in page.locator("#said").inner_text()
    assert page.locator("#rows th a").all_inner_texts() == [ID]


def test_lists_are_made_renamed_and_deleted(page):
    page.goto("/lists")
    page.get_by_label("Name").fill("cities")
    page.get_by_role("button", name="New list").click()
    page.locator("#which option", has_text="cities (0)").wait_for(state="attached")
    page.goto(f"/{ID}")
    page.keyboard.press("s")
    page.get_by_role("status").get_by_text("“cities”").wait_for()
    saved(page)
    page.get_by_label("Name").fill("towns")
    page.get_by_role("button", name="Rename").click()
    page.locator("#which option", has_text="towns (1)").wait_for(state="attached")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    page.get_by_text("Deleted “towns”.").wait_for()
    assert json.loads(page.evaluate("localStorage['lexiscope.lists']"))["open"] == "My list"


@pytest.fixture
def site_of_ann(tmp_path):
    """(address, user and password) of a server that asks for keys, with one of ann's."""
    synthetic.publish(tmp_path)
    settings = Settings(index=tmp_path)
    keys = ApiKeys(settings)
    password = {"username": "ann", "password": keys.add("ann")}
    keys.close()
    with running(create_app(settings)) as address:
        yield address, password


def test_a_list_of_a_key_is_kept_by_the_server_and_found_in_another_browser(chromium, site_of_ann):
    address, password = site_of_ann
    for number in range(2):
        context = chromium.new_context(base_url=address, http_credentials=password)
        page = context.new_page()
        if number:
            page.goto("/lists/1")
            page.get_by_role("button", name="Keep it in this browser").click()
        page.goto(f"/{(ID, OTHER)[number]}")
        page.keyboard.press("s")
        page.get_by_role("status").get_by_text("Saved").wait_for()
        saved(page)
        page.get_by_role("button", name="Keep it on the server").click()
        page.get_by_role("status").get_by_text("on the server, as /lists/1").wait_for()
        context.close()
    kept = httpx.get(f"{address}/api/v1/lists/kept/1", headers={"x-api-key": password["password"]}).json()
    assert kept["kept"]["version"] == 2 and [entry["id"] for entry in kept["entries"]] == [ID, OTHER]


def test_a_list_that_was_removed_from_the_server_is_sent_again_as_a_new_one(chromium, site_of_ann):
    address, password = site_of_ann
    key = {"x-api-key": password["password"]}
    context = chromium.new_context(base_url=address, http_credentials=password)
    page = context.new_page()
    page.goto(f"/{ID}")
    page.keyboard.press("s")
    page.get_by_role("status").get_by_text("Saved").wait_for()
    saved(page)
    send = page.get_by_role("button", name="Keep it on the server")
    send.click()
    page.get_by_role("status").get_by_text("as /lists/1").wait_for()
    page.goto("/lists/1")
    page.get_by_role("button", name="Remove it from the server").click()
    page.wait_for_url("**/lists")
    send.click()
    page.get_by_role("status").get_by_text("as /lists/2").wait_for()
    httpx.delete(f"{address}/api/v1/lists/kept/2", headers=key).raise_for_status()
    send.click()
    page.get_by_role("status").get_by_text("send it again as a new one").wait_for()
    send.click()
    page.get_by_role("status").get_by_text("as /lists/3").wait_for()
    context.close()
