/* Sphinx fetches each page that it found, to cut an excerpt from it, which a page opened from the disk may not do.
   The texts of all pages are in searchtexts.js, and what would be fetched is taken from there. */
window.fetch = async (url) => new Response(SEARCH_TEXTS[url.slice(document.documentElement.dataset.content_root.length)]);
