"""The packages that the corpus is made of, all in Debian 12 main."""

# Programs whose catalogues give many messages for their size.
CATALOGUES = """
amule-common anjuta-common ardour-data audacity-data bluefish-data calligrasheets-data cinnamon-l10n
claws-mail-i18n coreutils darktable digikam-data dolphin-emu-data e2fsprogs-l10n
evolution-data-server-common filezilla-common fontforge-common freeciv-data freeipa-common gcc-12-locales
geany-plugins-common gimp-data git gnome-control-center-data gnumeric-common gnupg-l10n gramps grisbi-common
grub-common hexchat-common k3b-i18n kalarm kdevelop-l10n kexi-data kile-l10n kio kleopatra krita-l10n
ktexteditor-data ktorrent-data libc-l10n libglib2.0-data libgphoto2-l10n libgtk-3-common
libkf5kdelibs4support-data libkf5unitconversion-data libreoffice-l10n-de libvirt-l10n lynx-common lyx-common
mailutils-common manaplus-data mc-data minetest-data neomutt phpmyadmin pidgin-data postgresql-15 pspp
rkward-data shotwell-common siril-common subversion sylpheed-i18n tellico-data tin umbrello-data
util-linux-locales vim-runtime vlc-l10n weechat-core wx3.2-i18n wxmaxima
""".split()

# Manuals in both languages.
MANUALS = """
libreoffice-help-de libreoffice-help-en-us gnome-user-docs debian-handbook debian-reference-de
debian-reference-en developers-reference developers-reference-de debian-faq debian-faq-de
installation-guide-amd64
""".split()

# German man pages, and the packages that have the English ones (coreutils, git and others are above).
MAN_PAGES = """
manpages-de manpages-de-dev manpages manpages-dev systemd systemd-container systemd-homed systemd-boot
systemd-journal-remote openssh-client openssh-server util-linux mount bsdextrautils gettext libsane-common
sane-utils nfs-common findutils diffutils grep sed less mutt nano mtools recutils make texinfo dpkg dpkg-dev
apt apt-utils devscripts passwd login adduser debconf-doc po4a schroot man-db
""".split()

PACKAGES = (*CATALOGUES, *MANUALS, *MAN_PAGES)
