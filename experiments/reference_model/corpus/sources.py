"""Where the text comes from: packages of Debian 12, which of their files, and how much of each at most.

Only packages under permissive licences or in the public domain are listed (README.md says how each was
checked). A package can serve both kinds: the manual of Tcl is English, its library is code.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One package: its files whose path matches `include` and not `exclude` (regular expressions, searched
    in package/path), up to `cap_mb` million bytes of text."""

    package: str
    include: str
    exclude: str | None
    cap_mb: float

    @property
    def is_dictionary(self) -> bool:
        """Packages of one huge file, which is cut at its entries instead of being dropped for its size."""
        return self.package.startswith("dict-")

    @property
    def is_perl(self) -> bool:
        """Perl is under the Artistic licence or the GPL, as one likes: its files name both."""
        return self.package.startswith("perl")


SPHINX = r"_sources/.*\.(rst|txt|md)(\.txt)?(\.gz)?$"
NO_INDEX = (
    r"genindex|search\.html|py-modindex|_modules/|copyright|licen[sc]e|[Cc]hange[Ll]og|NEWS|/AUTHORS"
)
MANUAL = r"/man/man\w+/.*\.gz$"

ENGLISH = [
    Source("ant-doc", r"manual/.*\.html$", None, 3),
    Source("apache2-doc", r"manual/en/.*\.html(\.gz)?$", r"license", 4),
    Source("clang-14-doc", SPHINX, NO_INDEX, 4),
    Source("cmake-doc", SPHINX, NO_INDEX, 5),
    Source("cython-doc", SPHINX, NO_INDEX, 2),
    Source("dict-devil", r"\.dict\.dz$", None, 2),
    Source("dict-elements", r"\.dict\.dz$", None, 1),
    Source("dict-jargon", r"\.dict\.dz$", None, 3),
    Source("dict-wn", r"\.dict\.dz$", None, 7),
    Source("docker-doc", r"\.md(\.gz)?$", NO_INDEX, 3),
    Source("docutils-doc", r"\.(txt|rst)(\.gz)?$", NO_INDEX + r"|COPYING|HISTORY", 3),
    Source("erlang-doc", r"/html/.*\.html$", r"users_guide|release_notes|notes\.html|index|/lib/(edoc|syntax_tools)-|notes", 5),
    Source("freebsd-manpages", r"man\d/.*\.gz$", None, 6),
    Source("libboost1.74-doc", r"\.html$", r"license", 4),
    Source("libcurl4-doc", MANUAL + r"|\.md$", None, 3),
    Source("libssl-doc", MANUAL, None, 4.5),
    Source("libx11-doc", r"\.html$|" + MANUAL, None, 1.2),
    Source("lighttpd-doc", r"\.txt(\.gz)?$", None, 1),
    Source("llvm-14-doc", SPHINX, NO_INDEX, 8),
    Source("mypy-doc", SPHINX, NO_INDEX, 2),
    Source("nginx-doc", r"doc/nginx", r"copyright|changelog|\.Debian|\.conf", 1),
    Source("nodejs-doc", r"\.md(\.gz)?$|/api/.*\.html(\.gz)?$", r"all\.html|changelog|CHANGELOG", 5),
    Source("perl-doc", r"\.pod$", r"perlgpl|perlartistic", 8),
    Source("perl-modules-5.36", r"\.pod$", r"perlgpl", 2),
    Source("postgresql-doc-15", r"\.html(\.gz)?$", r"bookindex|release-", 8),
    Source("python-aiohttp-doc", SPHINX, NO_INDEX, 2),
    Source("python-cryptography-doc", SPHINX, NO_INDEX, 2),
    Source("python-dask-doc", SPHINX, NO_INDEX, 4),
    Source("python-django-doc", r"\.html$", r"_modules|genindex|search|_sources|py-modindex", 7),
    Source("python-pytest-doc", SPHINX, NO_INDEX, 3),
    Source("python-scrapy-doc", r"html/.*\.html$", NO_INDEX, 3),
    Source("python-setuptools-doc", SPHINX, NO_INDEX, 2),
    Source("python-sqlalchemy-doc", r"rst/.*\.rst$", r"changelog", 5),
    Source("python-tornado-doc", SPHINX, NO_INDEX, 2),
    Source("python-xarray-doc", SPHINX, NO_INDEX, 2),
    Source("python3.11-doc", r"_sources/.*\.rst\.txt(\.gz)?$", r"changelog|license", 11),
    Source("rust-src", r"src/doc/.*\.md$|compiler/rustc_error_codes/.*\.md$|src/tools/(cargo|clippy|miri|rustdoc|rust-analyzer)/.*\.md$", r"CHANGELOG|LICENSE|vendor/", 9),
    Source("sphinx-doc", SPHINX, NO_INDEX, 3),
    Source("sqlite3-doc", r"\.html(\.gz)?$", r"(syntax|c3ref)/", 6),
    Source("tcl8.6-doc", MANUAL, None, 2.5),
    Source("tcllib", MANUAL, None, 2),
    Source("tk8.6-doc", MANUAL, None, 1.8),
    Source("tomcat10-docs", r"\.html$", r"changelog|/api/", 3),
    Source("varnish-doc", SPHINX, NO_INDEX, 2),
    Source("xorg-docs", r"\.(html|txt|gz)$", r"copyright|License|changelog|\.svg|\.pdf|\.ps", 3),
]

CODE = [
    Source("erlang-src", r"\.(erl|hrl|c|h|java)$", r"/(edoc|syntax_tools)-|unicode_util|gen_|wx", 3.5),
    Source("eslint", r"\.js$", r"\.min\.", 1.2),
    Source("golang-1.19-src", r"\.(go|c|s)$", r"/testdata/|/vendor/|zsyscall|zerrors|ztypes|tables\.go|rewrite\w+\.go|opGen|/test/", 12),
    Source("golang-golang-x-net-dev", r"\.go$", r"/testdata/|tables", 1.2),
    Source("golang-golang-x-tools-dev", r"\.go$", r"/testdata/", 2),
    Source("googletest", r"\.(cc|h|py)$", None, 1.2),
    Source("libabsl-dev", r"\.(h|inc)$", None, 1.6),
    Source("libboost1.74-dev", r"\.(hpp|ipp|h)$", r"/mpl/|preprocessed|/aux_|preprocessor|vector\d0|/limits/|typeof/", 3),
    Source("libboost1.74-doc", r"\.(cpp|hpp)$", None, 1.5),
    Source("libc++-14-dev", r"c\+\+/v1/", None, 2.2),
    Source("libdpdk-dev", r"\.h$", None, 2.5),
    Source("libopencv-core-dev", r"\.(hpp|h)$", None, 1.2),
    Source("libprotobuf-dev", r"\.(h|proto)$", r"\.pb\.h", 0.8),
    Source("libpython3.11-minimal", r"\.py$", r"encodings/", 3.4),
    Source("libpython3.11-stdlib", r"\.py$", r"encodings/|pydoc_data", 4.8),
    Source("libpython3.11-testsuite", r"\.py$", r"test_email|cjkencodings|test_unicode", 4),
    Source("libruby3.1", r"\.rb$", r"/test-unit|unicode_normalize|/rdoc/generator|debug-", 3),
    Source("libsimde-dev", r"\.h$", None, 1),
    Source("node-babel7", r"\.(js|cjs|mjs)$", r"\.min\.", 1.6),
    Source("node-d3", r"\.js$", r"\.min\.", 1),
    Source("node-lodash", r"\.js$", r"\.min\.|/fp/", 0.6),
    Source("perl-modules-5.36", r"\.(pm|pl)$", r"unicore|Unicode|Collate|/Encode", 5),
    Source("php-symfony-http-kernel", r"\.php$", r"NumberComparator|Glob\.php", 2),
    Source("php-twig", r"\.php$", None, 2),
    Source("postgresql-server-dev-15", r"\.h$", r"_d\.h$|unicode", 2.5),
    Source("python-sqlalchemy-doc", r"examples/.*\.py$", None, 1),
    Source("python3-django", r"\.(py|js)$", r"locale/|vendor/|xregexp|jquery", 3),
    Source("python3-matplotlib", r"\.py$", r"_cm|_mathtext_data", 2),
    Source("python3-numpy", r"\.(py|c)$", None, 3),
    Source("python3-pandas", r"\.(py|pyx)$", None, 3),
    Source("python3-scipy", r"\.py$", r"_data|test_data", 2.5),
    Source("python3-sklearn", r"\.(py|pyx)$", None, 2.5),
    Source("python3-sqlalchemy", r"\.py$", None, 2.5),
    Source("python3-sympy", r"\.py$", r"rubi|test_data|_generated", 2),
    Source("python3-torch", r"\.py$", r"/test|_meta_registrations_gen", 3),
    Source("python3-twisted", r"\.py$", None, 3),
    Source("ruby-actionpack", r"\.rb$", None, 3),
    Source("ruby-actionview", r"\.rb$", None, 3),
    Source("ruby-activerecord", r"\.rb$", None, 1.2),
    Source("ruby-activesupport", r"\.rb$", r"unicode", 3),
    Source("ruby-railties", r"\.rb$", r"guides", 3),
    Source("rust-src", r"rustc-1\.63\.0/(library|compiler|src/tools/(clippy|cargo|rustfmt|rust-analyzer|miri|rls|compiletest|tidy))/.*\.rs$", r"stdarch|unicode_data|backtrace|/tests/ui/|vendor/", 11),
    Source("sbcl-source", r"\.(lisp|c|h)$", r"tests/data|unicode|/contrib/asdf|ucd", 3),
    Source("tcllib", r"\.tcl$", r"unicode_data|/pt/|page/", 2),
    Source("webpack", r"\.js$", r"\.min\.", 1.6),
]

KINDS = {"english": ENGLISH, "code": CODE}


def packages() -> list[str]:
    """Names of all packages, sorted."""
    return sorted({source.package for sources in KINDS.values() for source in sources})
