/* One line: its words, its variables, its answer. */
#include "driver.h"
#include <ctype.h>
#include <stdarg.h>

#define MAX_VARIABLES 128
#define MAX_NAME 16

static struct variable {
	char name[MAX_NAME];
	int fd;
} variables[MAX_VARIABLES];

static char answered[MAX_ANSWER];

void fail(const char *what)
{
	printf("driver: %s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(2);
}

static void no_step(const char *why, const char *what)
{
	printf("driver: %s: %s\n", why, what);
	fflush(stdout);
	_exit(2);
}

void answer(const char *format, ...)
{
	va_list values;
	va_start(values, format);
	vsnprintf(answered, sizeof(answered), format, values);
	va_end(values);
}

void answer_result(long result)
{
	if (result < 0)
		answer("%s", strerrorname_np(errno));
	else
		answer("ok");
}

void answer_bytes(const char *before, const void *bytes, size_t length)
{
	size_t at = snprintf(answered, sizeof(answered), "%s \"", before);
	for (size_t i = 0; i < length && at < sizeof(answered) - 8; i++) {
		unsigned char byte = ((const unsigned char *)bytes)[i];
		int plain = byte >= ' ' && byte < 0x7f && byte != '"' && byte != '\\';
		at += snprintf(answered + at, sizeof(answered) - at, plain ? "%c" : "\\x%02x", byte);
	}
	snprintf(answered + at, sizeof(answered) - at, "\"");
}

static struct variable *find(const char *name)
{
	for (int i = 0; i < MAX_VARIABLES; i++)
		if (strcmp(variables[i].name, name) == 0)
			return &variables[i];
	return NULL;
}

int fd_of(const struct word *word)
{
	if (isdigit((unsigned char)word->text[0]) || word->text[0] == '-')
		return atoi(word->text);
	struct variable *variable = find(word->text);
	return variable ? variable->fd : -1;
}

void bind_fd(const struct word *name, int fd)
{
	struct variable *variable = find("");
	if (name->length == 0 || name->length >= MAX_NAME || !variable || find(name->text))
		no_step("this cannot be bound, or is bound already", name->text);
	strcpy(variable->name, name->text);
	variable->fd = fd;
}

void bind_result(const struct word *name, int fd)
{
	answer_result(fd);
	if (fd >= 0)
		bind_fd(name, fd);
}

void unbind_fd(const struct word *name)
{
	struct variable *variable = find(name->text);
	if (variable)
		variable->name[0] = 0;
}

uint64_t number_of(const struct word *word) { return strtoull(word->text, NULL, 0); }

const struct word *value_of(struct step *step, const char *key)
{
	static struct word value;
	size_t length = strlen(key);
	for (int i = 0; i < step->count; i++) {
		struct word *word = &step->words[i];
		if (word->length <= length || memcmp(word->text, key, length) != 0 || word->text[length] != '=')
			continue;
		value.text = word->text + length + 1;
		value.length = word->length - length - 1;
		return &value;
	}
	return NULL;
}

int has_word(struct step *step, const char *text)
{
	for (int i = 0; i < step->count; i++)
		if (strcmp(step->words[i].text, text) == 0)
			return 1;
	return 0;
}

int own_fd(int fd)
{
	int moved = fcntl(fd, F_DUPFD_CLOEXEC, OWN_FDS);
	if (moved < 0)
		fail("move a descriptor away");
	close(fd);
	return moved;
}

/* "a\x00b" or "n"*63: behind the opening quote. Returns where it goes on. */
static char *quoted(char *from, char **to)
{
	char *start = *to, *out = start;
	while (*from && *from != '"') {
		if (from[0] == '\\' && from[1] == 'x') {
			char digits[3] = { from[2], from[3], 0 };
			*out++ = strtol(digits, NULL, 16);
			from += 4;
		} else
			*out++ = *from++;
	}
	if (*from == '"')
		from++;
	if (*from == '*') {
		size_t length = out - start, times = strtoul(from + 1, &from, 10);
		for (size_t i = 1; i < times; i++, out += length)
			memcpy(out, start, length);
	}
	*to = out;
	return from;
}

static void split(char *line, struct step *step)
{
	static char text[2 * MAX_LINE];
	static char nothing[1];
	char *out = text;
	for (int i = 0; i < MAX_WORDS; i++)
		step->words[i] = (struct word){ nothing, 0 };
	step->count = 0;
	while (*line) {
		if (*line == ' ') {
			line++;
			continue;
		}
		if (step->count == MAX_WORDS)
			no_step("too many words", line);
		char *start = out;
		while (*line && *line != ' ')
			if (*line == '"')
				line = quoted(line + 1, &out);
			else
				*out++ = *line++;
		step->words[step->count++] = (struct word){ start, out - start };
		*out++ = 0;
	}
}

const char *run_line(char *line)
{
	static const struct verb *const tables[] = { process_verbs, device_verbs, file_verbs };
	char verb[32] = "";
	struct step step;
	size_t length = strcspn(line, " ");
	if (length < sizeof(verb))
		memcpy(verb, line, length);
	split(line + length, &step);
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		for (const struct verb *each = tables[i]; each->name; each++)
			if (strcmp(each->name, verb) == 0) {
				answer("no answer");
				each->run(&step);
				return answered;
			}
	no_step("there is no such step", line);
	return NULL;
}
