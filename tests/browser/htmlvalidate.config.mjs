// How the pages' HTML is judged: by all that the validator recommends, but for matters of taste.
export default {
  root: true,
  extends: ["html-validate:recommended", "html-validate:a11y", "html-validate:document"],
  rules: {
    // Boxes to tick share a name: that is how a form sends a list.
    "form-dup-name": ["error", { shared: ["radio", "button", "reset", "submit", "checkbox"] }],
    // A link that looks like a button is marked so for the stylesheet; console.js lets Space press it.
    "prefer-native-element": ["error", { exclude: ["button"] }],
    // A page's title names what it is about, and client IDs are as long as they are.
    "long-title": "off",
    "doctype-style": ["error", { style: "lowercase" }],
    // A button in a form sends it, unless it says otherwise: that is what a button in a form is for.
    "no-implicit-button-type": "off",
    // Style and script come from the same server as the page: who can change the one can change the other.
    "require-sri": ["error", { target: "crossorigin" }],
  },
};
