// What sphinx_tippy shows beside a reference: for a pointer and the keyboard. A finger follows the link, as ever.
globalThis.tippy?.setDefaultProps({ touch: false });
