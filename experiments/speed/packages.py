"""The packages that the corpus is made of, all in Debian 12 main: large ones, with much English prose."""

BOOKS = """
anarchism ada-reference-manual-2012 c++-annotations-html debian-handbook debian-history debian-policy
debian-reference-en developers-reference debian-faq debian-edu-doc-en debmake-doc freedombox-doc-en
harden-doc installation-guide-amd64 mh-book png-definitive-guide abs-guide
""".split()

DICTIONARIES = "dict-gcide dict-foldoc dict-jargon dict-devil".split()

PROGRAMS = """
apache2-doc argyll-doc bacula-doc bash-doc bind9-doc borgbackup-doc csound-doc denemo-doc
docbook-xsl-doc-html exim4-doc-html fontforge-doc frr-doc ghostscript-doc gimp-help-en git-doc
gnome-user-docs gnucash-docs gnuplot-doc grass-doc imagemagick-6-doc kea-doc krb5-doc lemonldap-ng-doc
libreoffice-help-en-us lilypond-doc-html mercurial-common nut-doc ntpsec-doc openafs-doc openvswitch-doc
postfix-doc postgis-doc postgresql-doc-15 puredata-doc rsyslog-doc shorewall-doc slurm-wlm-doc solfege-doc
sqlite3-doc systemtap-doc vim-runtime wireshark-doc zoneminder-doc zsh-doc rt5-doc-html proftpd-doc snd-doc
""".split()

LANGUAGES = """
cargo-doc clang-14-doc cmake-doc cppreference-doc-en-html erlang-doc gap-doc ghc-doc gnome-devel-docs
libboost1.81-doc libstdc++-12-doc llvm-14-doc maxima-doc mit-scheme-doc nodejs-doc octave-doc perl-doc
python3.11-doc qtbase5-doc-html qtcreator-doc r-doc-html racket-doc rust-doc swig4.0-doc swi-prolog-doc
tcl8.6-doc tk8.6-doc xotcl-doc
""".split()

LIBRARIES = """
libglib2.0-doc libgtk-3-doc libgtk-4-doc python-astropy-doc python-celery-doc python-django-doc
python-ipython-doc python-pytest-doc python-scipy-doc python-sklearn-doc python-skimage-doc
python-sqlalchemy-doc python-statsmodels-doc python-sympy-doc python-xarray-doc python-biopython-doc
sagemath-doc sphinx-doc twisted-doc xapian-doc db5.3-doc gnutls-doc wx3.2-doc
""".split()

SYSTEMS = """
linux-doc-6.1 cinder-doc dpdk-doc heat-doc ironic-doc keystone-doc manila-doc neutron-doc nova-doc
octavia-doc swift-doc xen-doc glance-doc ganeti-doc lava-server-doc
""".split()

MAN_PAGES = """
manpages manpages-dev freebsd-manpages erlang-manpages git-man libssl-doc libx11-doc systemd zsh-common
libcurl4-doc inn2 nco
""".split()

PACKAGES = (*BOOKS, *DICTIONARIES, *PROGRAMS, *LANGUAGES, *LIBRARIES, *SYSTEMS, *MAN_PAGES)
