// Judges HTML, by all that html-validate recommends but for matters of taste: a page in a line (as JSON) comes in, the
// complaints about it go out in a line.
import { createInterface } from "node:readline";
import { HtmlValidate } from "html-validate";

const validator = new HtmlValidate({
  root: true,
  extends: ["html-validate:recommended", "html-validate:a11y", "html-validate:document"],
  rules: {
    "doctype-style": ["error", { style: "lowercase" }],
    // Boxes to tick share a name: that is how a form sends a list.
    "form-dup-name": ["error", { shared: ["radio", "button", "reset", "submit", "checkbox"] }],
    // A page's title names what it is about, and client IDs are as long as they are.
    "long-title": "off",
    // A button in a form sends it, unless it says otherwise: that is what a button in a form is for.
    "no-implicit-button-type": "off",
    // A link that looks like a button is marked so for the stylesheet; console.js lets Space press it.
    "prefer-native-element": ["error", { exclude: ["button"] }],
    // Style and script come from the same server as the page: who can change the one can change the other.
    "require-sri": ["error", { target: "crossorigin" }],
  },
});

for await (const line of createInterface({ input: process.stdin })) {
  const report = await validator.validateString(JSON.parse(line));
  const complaints = report.results.flatMap((result) => result.messages);
  console.log(JSON.stringify(complaints.map((each) => `line ${each.line}: ${each.ruleId}: ${each.message}`)));
}
